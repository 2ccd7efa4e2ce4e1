"""The baseline: what the existing migrator sends, a GET and a PUT for each entry in turn.

`python -m tests.benchmarks.sequential SOURCE URL [--dry-run]`; a dry run sends only the GETs.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from urllib.parse import quote

import httpx


def main(source: Path, url: str, *, dry_run: bool) -> None:
    """Copy every entry that the server lacks; raises when one is not taken."""
    headers = {"Authorization": f"Bearer {os.environ['HDEV_MEMORY_HTTP_API_KEY']}"}
    with httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
        for file in sorted(source.rglob("*.md")):
            key = file.relative_to(source).as_posix().removesuffix(".md")
            path = f"/api/memory/entry/{quote(key)}"
            if client.get(path).raise_for_status().json()["success"] or dry_run:
                continue
            metadata = json.loads(file.with_suffix(".metadata.json").read_text())
            body = {"content": file.read_text(), "metadata": metadata}
            answer = client.put(path, json=body).raise_for_status().json()
            if not answer["success"]:
                raise RuntimeError(f"{key}: {answer['error']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], dry_run="--dry-run" in sys.argv[3:])
