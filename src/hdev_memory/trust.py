"""Where the files lie that a plan is judged by: beside it, or in one commit of the repository.

A pull request can change every file of its own checkout, the rules included. Read from the base
branch, they are out of its reach. All files come from one commit, which is looked up once.
"""

from __future__ import annotations

import os.path
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from hdev_memory.errors import TrustError, UsageError

MAX_BYTES = 1024 * 1024
"""No file of a trust root is longer."""

_GIT_SECONDS = 30
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@{}~^+-]{0,199}")


class Files(Protocol):
    """A place to read rules from."""

    def read(self, path: Path) -> bytes | None:
        """The bytes of a file, None where there is none. Raises TrustError for anything else."""
        ...

    def name(self, path: Path) -> str:
        """A file's name for people, with where it was read from."""
        ...


class Checkout:
    """The files as they lie on disk; each is read once, so that what judges is what was pinned."""

    def __init__(self) -> None:
        self._read: dict[Path, bytes | None] = {}

    def read(self, path: Path) -> bytes | None:
        if path not in self._read:
            self._read[path] = self._bytes(path)
        return self._read[path]

    def _bytes(self, path: Path) -> bytes | None:
        try:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no path"
            raise unusable(self.name(path), f"it cannot be read: {why}") from None
        return _bounded(content, self.name(path))

    def name(self, path: Path) -> str:
        return str(path)


class Commit:
    """The files as they are in one commit of the repository that holds a folder.

    git runs with an environment of its own: no variable points it to another repository, replaced
    objects are not looked at, and nothing is fetched.
    """

    def __init__(self, folder: Path, ref: str, environ: Mapping[str, str]) -> None:
        """Raises UsageError for what cannot be a ref, TrustError when git or the ref is missing."""
        if _REF.fullmatch(ref) is None:
            raise UsageError(
                "This is not the name of a git ref.",
                why=f"--trust-ref was {ref!r}.",
                hint="Give a branch, a tag or a commit, for example --trust-ref origin/main.",
            )
        self._ref = ref
        self._environ = {
            **{name: environ[name] for name in ("PATH", "HOME") if name in environ},
            "LC_ALL": "C",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
        }
        found = self._git(folder, ["rev-parse", "--show-toplevel"])
        if found is None:
            raise unusable(ref, f"{folder} is in no repository that git is willing to read")
        self.top = Path(os.fsdecode(found).removesuffix("\n"))
        words = ["rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}"]
        commit = self._git(self.top, words)
        if commit is None:
            raise unusable(ref, "the repository has no such branch, tag or commit")
        self.commit = commit.decode("ascii").strip()

    def read(self, path: Path) -> bytes | None:
        inside = os.path.relpath(os.path.normpath(path), self.top)
        if inside.startswith("..") or os.path.isabs(inside):
            raise unusable(str(path), f"it lies outside of the repository {self.top}")
        listed = self._git(
            self.top, ["--literal-pathspecs", "ls-tree", "-z", "-l", self.commit, "--", inside]
        )
        if listed is None:
            raise unusable(self.name(path), "git cannot read it")
        if not listed:
            return None
        mode, kind, name, size = listed.partition(b"\t")[0].split()
        if kind != b"blob" or mode not in (b"100644", b"100755"):
            raise unusable(self.name(path), "it is no plain file there")
        if int(size) > MAX_BYTES:
            raise unusable(self.name(path), f"it is longer than {MAX_BYTES} bytes")
        content = self._git(self.top, ["cat-file", "blob", name.decode("ascii")])
        if content is None:
            raise unusable(self.name(path), "git cannot read it")
        return _bounded(content, self.name(path))

    def name(self, path: Path) -> str:
        return f"{self._ref}:{os.path.relpath(os.path.normpath(path), self.top)}"

    def _git(self, folder: Path, words: Sequence[str]) -> bytes | None:
        """What git says; None where it ends with another status than 0."""
        try:
            done = subprocess.run(
                ["git", *words],
                cwd=folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_GIT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise unusable(self._ref, f"git did not end within {_GIT_SECONDS} seconds") from None
        except OSError as error:
            raise unusable(self._ref, f"git cannot be run: {error.strerror}") from None
        return done.stdout if done.returncode == 0 else None


def _bounded(content: bytes, name: str) -> bytes:
    if len(content) > MAX_BYTES:
        raise unusable(name, f"it is longer than {MAX_BYTES} bytes")
    return content


def needed(files: Files, path: Path) -> bytes:
    """The bytes of a file that must be there. Raises TrustError."""
    content = files.read(path)
    if content is None:
        raise unusable(files.name(path), "there is no such file")
    return content


def unusable(name: str, why: str) -> TrustError:
    """The error for a trust root that cannot be used; nothing is judged without one."""
    return TrustError(
        "What the plan is to be judged by cannot be read.",
        why=f"{name}: {why}.",
        hint="Give --allowed-signers and --trust-ref as docs/approvals.md tells, or correct "
        "[approvals] in hdev.toml.",
    )
