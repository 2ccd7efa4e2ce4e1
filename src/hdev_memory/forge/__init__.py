"""Where plans are reviewed: one table, name -> forge."""

from __future__ import annotations

from hdev_memory.forge.base import Forge
from hdev_memory.forge.github import GitHub
from hdev_memory.forge.gitlab import GitLab

FORGES: dict[str, type[Forge]] = {"github": GitHub, "gitlab": GitLab}
