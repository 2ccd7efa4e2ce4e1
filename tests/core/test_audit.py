"""The chain of the audit log."""

import msgspec
import pytest

from hdev_memory.core import audit
from hdev_memory.errors import AuditError


def chain(count=5):
    records = [
        audit.Record(
            seq=7,
            prev=audit.GENESIS,
            time="2026-01-02T03:04:05.678Z",
            event="started",
            run=f"r{number}",
            plan="sha256:" + "0" * 64,
            actor="ann",
        )
        for number in range(count)
    ]
    return audit.chain(records, audit.EMPTY)


def test_a_chain_verifies_and_leads_to_its_head():
    lines, head = chain()

    assert [behind for _, behind in audit.verify(lines)][-1] == head


def test_a_flip_of_any_byte_that_is_chained_is_refused():
    lines, head = chain(3)
    raw = b"".join(lines)
    for offset in range(len(raw)):
        flipped = bytearray(raw)
        flipped[offset] ^= 1
        try:
            behind = [mark for _, mark in audit.verify(bytes(flipped).splitlines(keepends=True))]
        except AuditError:
            continue
        assert behind[-1] != head


@pytest.mark.parametrize("number", range(4))
def test_a_dropped_repeated_or_exchanged_line_is_refused(number):
    lines, _ = chain()
    for changed in (
        lines[:number] + lines[number + 1 :],
        lines[:number] + [lines[number]] + lines[number:],
        lines[:number] + [lines[number + 1], lines[number]] + lines[number + 2 :],
    ):
        with pytest.raises(AuditError):
            list(audit.verify(changed))


def test_a_cut_end_is_seen_by_the_head_alone():
    lines, head = chain()

    behind = [mark for _, mark in audit.verify(lines[:-1])]

    assert behind[-1] != head


@pytest.mark.parametrize("time", ["2026-01-02T03:04:05.678Z\n", "\u0662026-01-02T03:04:05.678Z"])
def test_a_time_is_spelled_in_one_way(time):
    (line,), _ = chain(1)
    changed = msgspec.structs.replace(next(audit.verify([line]))[0], time=time)
    texts, _ = audit.chain([changed], audit.EMPTY)

    with pytest.raises(AuditError):
        list(audit.verify(texts))
