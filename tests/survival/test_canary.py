"""A key and a text that would be recognised anywhere go through everything that can go wrong."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from tests.conftest import put_entry, tree_of
from tests.processes import MemoryServer
from tests.survival.test_failpoints import FailingDisk

from hdev_memory import durable

KEY = "canary-3b1f-of-the-key"
TEXT = "canary-9c2e of the content"
NOTE = "canary note of the metadata"


@pytest.fixture
def work(home):
    work = home.parent / "work"
    for side in ("source", "target"):
        put_entry(work / side, "changed", f"{TEXT} {side}", {"note": NOTE + side})
    put_entry(work / "source", "fresh", TEXT, {"note": NOTE})
    put_entry(work / "source", "broken", TEXT.encode() + b"\xff")
    put_entry(work / "target", "gone", TEXT)
    (work / "source" / "no-json.md").write_text(TEXT)
    (work / "source" / "no-json.metadata.json").write_text('{"' + TEXT)
    return work


def scenes(hdev, work: Path, served: Path, url: str):
    """A workflow with its failures; what each command came to."""
    both = ("filesystem:source", "filesystem:target", "--overwrite", "--delete")
    to_server = ("--target-api-key", KEY)
    yield hdev("plan", "filesystem:source", url, "-o", "p", "--api-key", KEY)
    yield hdev("apply", "p", "--target-api-key", KEY + "-wrong")
    put_entry(served, "changed", TEXT + " drifted")
    yield hdev("apply", "p", *to_server)
    yield hdev("apply", "p", *to_server, "--json")
    (served / "changed.md").unlink()
    (served / "changed.metadata.json").unlink()
    yield hdev("apply", "p", *to_server)
    yield hdev("verify", "p", *to_server, "--json")
    yield hdev("migrate-memory", "--target", url, "--api-key", KEY)
    yield hdev("plan", *both, "-o", "q")
    yield hdev("show", "q")
    yield hdev("show", "q", "--format", "json")
    for call, error in ((44, errno.ENOSPC), (36, errno.EIO), (30, errno.EACCES), (8, errno.EIO)):
        disk = FailingDisk(call, OSError(error, os.strerror(error)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(durable, "disk", disk)
            yield hdev("apply", "q")
    log = work / "q/audit.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole.replace(b'"seq":2', b'"seq":9'))
    yield hdev("apply", "q")
    log.write_bytes(whole + b'{"torn')
    yield hdev("apply", "q")
    yield hdev("audit", "show", "q")
    yield hdev("session", stdin=f"!migrate_memory api_key={KEY} no_such=1\n!exit\n")


def test_neither_key_nor_content_is_said_or_written_anywhere_else(hdev, work, tmp_path):
    assert "HDEV_DEBUG" not in os.environ
    served = tmp_path / "served"
    with MemoryServer(served, KEY) as server:
        results = list(scenes(hdev, work, served, server.url))
        url = server.url
    down = hdev("apply", "p", "--again", "--target-api-key", KEY)
    results.append(down)
    said = [result.out + result.err for result in results] + [server.out, server.err]
    stores = ("source/", "target/", "q/backup/", "p/backup/")
    files = {name: text for name, text in tree_of(work).items() if not name.startswith(stores)}

    assert {result.status for result in results} >= {0, 3, 4, 8, 9}, json.dumps(said, indent=1)
    assert down.status == 9, url
    assert [text for text in said if KEY in text] == []
    # What entries hold is shown to people, in reviews; metadata also where there is drift.
    assert [text for text in said if TEXT in text and not text.startswith("Plan: ")] == []
    for canary in (TEXT, NOTE):
        recorded = [name for name, text in files.items() if canary.encode() in text]
        assert [name for name in recorded if not name.endswith("review.md")] == []
    assert [name for name, text in tree_of(tmp_path).items() if KEY.encode() in text] == []
    assert "q/audit.jsonl" in files
    assert "p/receipt.json" in files
    kept = tree_of(work / "q/backup")
    assert TEXT.encode() in kept["changed.md"], "it was there to be leaked"
    assert TEXT.encode() in tree_of(served)["fresh.md"], "it was there to be leaked"
