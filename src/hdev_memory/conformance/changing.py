"""Checks of how a backend changes things: preconditions, visibility, durability, refusals."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from msgspec.structs import replace

from hdev_memory.backends.base import (
    Backend,
    Change,
    Drifted,
    Failed,
    Put,
    Receipt,
    Removed,
    Session,
    Stored,
)
from hdev_memory.conformance.subject import (
    NotApplicable,
    Subject,
    broken,
    same,
)
from hdev_memory.core.entry import Absent, Entry, State
from hdev_memory.errors import LockedError

# cas


def _drifts(subject: Subject, change: Change, found: State | None) -> None:
    (receipt,) = subject.write(change)
    same(receipt, Drifted(key=change.key, found=found), "the receipt")


def create_over_existing(subject: Subject) -> None:
    theirs = subject.made("a", b"theirs")
    _drifts(subject, subject.put("a", b"ours"), theirs)
    subject.stands("a", b"theirs")


def stale_overwrite(subject: Subject) -> None:
    theirs = subject.made("a", b"theirs")
    stale = subject.state(b"what we saw")
    _drifts(subject, subject.put("a", b"ours", before=stale), theirs)
    subject.stands("a", b"theirs")


def stale_metadata(subject: Subject) -> None:
    theirs = subject.made("a", b"same", {"k": "theirs"})
    stale = subject.state(b"same", {"k": "what we saw"})
    _drifts(subject, subject.put("a", b"same", {"k": "ours"}, before=stale), theirs)
    same(subject.entry("a").metadata.get("k"), "theirs", "the metadata")


def stale_removal(subject: Subject) -> None:
    theirs = subject.made("a", b"theirs")
    _drifts(subject, subject.remove("a", subject.state(b"what we saw")), theirs)
    subject.stands("a", b"theirs")


def interleaved_create(subject: Subject) -> None:
    _interleaved(subject, "create", subject.put("a", b"ours"), subject.put("a", b"theirs"))


def interleaved_overwrite(subject: Subject) -> None:
    before = subject.made("a", b"before")
    _interleaved(
        subject,
        "overwrite",
        subject.put("a", b"ours", before=before),
        subject.put("a", b"theirs", before=before),
    )


def interleaved_removal(subject: Subject) -> None:
    before = subject.made("a", b"before")
    _interleaved(
        subject,
        "removal",
        subject.remove("a", before),
        subject.put("a", b"theirs", before=before),
    )


def _interleaved(subject: Subject, what: str, ours: Change, theirs: Put) -> None:
    """Somebody else writes after our look and before our effect: in the intent, where that is."""
    happened: list[Receipt] = []

    def meanwhile(changes: Sequence[Change]) -> None:
        with subject.connection() as other:
            happened.extend(subject.write(theirs, through=other))

    (receipt,) = subject.write(ours, session=Session(intend=meanwhile))
    same(happened, [Stored(key=theirs.key, state=theirs.after)], "the receipt of the other writer")
    found = subject.read("a")
    kept = isinstance(found, Entry) and found.content == b"theirs"
    told = isinstance(receipt, Drifted | Failed)
    interleaved = subject.record.interleaved
    interleaved[what] = kept and told
    lost = [name for name, seen in interleaved.items() if not seen]
    subject.observe(
        "cas",
        f"lost updates between look and effect ({', '.join(lost)})"
        if lost
        else f"kept {len(interleaved)} of {len(interleaved)} updates between look and effect",
    )
    declared = subject.capabilities.cas
    if declared != "atomic":
        if kept and told:
            subject.note(f"cas is declared `{declared}`, and the other update was kept")
        raise NotApplicable(f"cas is declared `{declared}`")
    if not kept:
        broken("the update of the other writer to stand (cas is declared `atomic`)", found)
    if not told:
        broken("a receipt that tells of the other writer", receipt)


def _require_atomic(subject: Subject) -> None:
    if subject.capabilities.cas != "atomic":
        raise NotApplicable(f"cas is declared `{subject.capabilities.cas}`")


def _together(subject: Subject, work: Callable[[int, Backend], None], count: int) -> None:
    """Let several writers work at once, every other one through a connection of its own."""
    start = threading.Barrier(count)
    errors: list[Exception] = []

    def writer(number: int) -> None:
        with contextlib.ExitStack() as stack:
            try:
                own = stack.enter_context(subject.connection()) if number % 2 else subject.backend
                start.wait()
                work(number, own)
            except Exception as error:  # noqa: BLE001 - carried to the thread of the check
                start.abort()
                errors.append(error)

    threads = [threading.Thread(target=writer, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:  # after an interrupt too: what they still write must be there to be cleaned
        for thread in threads:
            thread.join()
    real = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    if errors:
        raise (real or errors)[0]


def one_winner(subject: Subject) -> None:
    _require_atomic(subject)
    receipts: list[Receipt] = []

    def contend(number: int, backend: Backend) -> None:
        receipts.extend(subject.write(subject.put("a", b"%d" % number), through=backend))

    _together(subject, contend, 8)
    winners = [receipt for receipt in receipts if isinstance(receipt, Stored)]
    same(len(winners), 1, "the number of writers that created one entry")
    same(subject.state(subject.entry("a").content), winners[0].state, "what stands")


def no_lost_update(subject: Subject) -> None:
    _require_atomic(subject)
    subject.made("count", b"0")
    acknowledged: list[int] = []
    kept: list[str] = []

    def count(number: int, backend: Backend) -> None:
        for _ in range(6):
            found = subject.read("count", through=backend)
            if not isinstance(found, Entry):
                continue
            counted = int(found.content.split()[0]) + 1
            content = b"%d by %d" % (counted, number)
            put = subject.put("count", content, before=subject.state(found.content))
            (receipt,) = subject.write(put, through=backend)
            if isinstance(receipt, Stored):
                acknowledged.append(counted)
            if receipt.kept:
                kept.append(receipt.kept)

    _together(subject, count, 4)
    if not acknowledged:
        broken("at least one of several writers to get through", acknowledged)
    if kept:  # displaced, but not lost: a receipt tells the name under which it was set aside
        subject.note(f"{len(kept)} versions were set aside while several writers met")
        return
    counts = sorted(acknowledged)
    same(counts, sorted(set(counts)), "the counts that were acknowledged, each once")
    stands = int(subject.entry("count").content.split()[0])
    if stands < counts[-1]:  # it may be higher: a writer that was replaced at once is not told so
        broken(f"a count of {counts[-1]} or more to stand", stands)


# visibility

_BLOCKS = (b"A" * 8192, b"B" * 65536)


def overwrites_seen_whole(subject: Subject) -> None:
    _require_atomic(subject)
    contents = [block * 4 for block in _BLOCKS]
    state = subject.made("a", contents[0], {"side": 0})

    def flip() -> None:
        before = state
        for turn in range(1, 15):
            side = turn % 2
            put = subject.put("a", contents[side], {"side": side}, before=before)
            (receipt,) = subject.write(put)
            same(receipt, Stored(key=put.key, state=put.after), "the receipt")
            before = put.after

    def look(backend: Backend) -> None:
        found = subject.entry("a", through=backend)
        if found.content not in contents:
            broken("the whole content from before or from after", found.content)
        if found.metadata.get("side") not in (0, 1):
            broken("the whole metadata from before or from after", found.metadata)

    _watched(subject, flip, look)


def creations_seen_whole(subject: Subject) -> None:
    _require_atomic(subject)
    content, metadata = _BLOCKS[1] * 4, {"k": "v"}
    wanted = subject.state(content, metadata)
    made: list[str] = []

    def create() -> None:
        for turn in range(15):
            made.append(f"c{turn}")
            subject.made(f"c{turn}", content, metadata)

    def look(backend: Backend) -> None:
        for name in made[-2:]:
            found = subject.read(name, through=backend)
            if isinstance(found, Entry):
                state = subject.normalisation.state(found.content, found.metadata)
                same(state, wanted, "what is seen of an entry while it is created")

    _watched(subject, create, look)


def _watched(subject: Subject, work: Callable[[], None], look: Callable[[Backend], None]) -> None:
    """Work, while somebody looks through another connection all the time."""
    done = threading.Event()
    errors: list[Exception] = []

    def watcher() -> None:
        try:
            with subject.connection() as other:
                while not done.is_set():
                    look(other)
        except Exception as error:  # noqa: BLE001 - carried to the thread of the check
            errors.append(error)

    thread = threading.Thread(target=watcher)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    if errors:
        raise errors[0]


# durability


def found_again(subject: Subject) -> None:
    first = subject.made("a", b"one", {"k": 1})
    subject.made("b", b"other")
    gone = subject.made("c")
    subject.write(
        subject.put("a", b"two", {"k": 2}, before=first),
        subject.remove("c", gone),
    )
    with subject.connection() as other:
        subject.stands("a", b"two", through=other)
        same(subject.entry("a", through=other).metadata.get("k"), 2, "the metadata")
        subject.stands("b", b"other", through=other)
        subject.absent("c", through=other)
        listed = subject.names(other.keys(subject.scope))
    same([name for name in listed if name != "c"], ["a", "b"], "the names listed")
    subject.observe(
        "durability", "found again by a second connection; power loss is not seen from outside"
    )


def nothing_before_intent(subject: Subject) -> None:
    before = subject.made("old", b"before")
    gone = subject.made("gone", b"before")
    seen: list[object] = []

    def look(changes: Sequence[Change]) -> None:
        with subject.connection() as other:
            subject.absent("new", through=other)
            subject.stands("old", b"before", through=other)
            subject.stands("gone", b"before", through=other)
        seen.append(changes)

    receipts = subject.write(
        subject.put("new", b"after"),
        subject.put("old", b"after", before=before),
        subject.remove("gone", gone),
        session=Session(intend=look),
    )
    same([type(receipt) for receipt in receipts], [Stored, Stored, Removed], "the receipts")
    same(len(seen), 1, "how often the intent was asked for")


def intent_names_changes(subject: Subject) -> None:
    before = subject.made("old", b"before")
    asked: list[list[str]] = []

    def note(changes: Sequence[Change]) -> None:
        asked.append([change.key for change in changes])

    wrong = replace(subject.put("a"), key=f"{subject.folder}/../b")
    good = [subject.put("new"), subject.put("old", b"after", before=before)]
    receipts = subject.backend.write(
        [good[0], wrong, good[1]], subject.normalisation, Session(intend=note)
    )
    subject.record.keys.update(change.key for change in good)

    same([type(receipt) for receipt in receipts], [Stored, Failed, Stored], "the receipts")
    same(asked, [[change.key for change in good]], "the changes that the intent was told")


def failing_intent(subject: Subject) -> None:
    before = subject.made("old", b"before")

    class Refused(Exception):
        pass

    def refuse(changes: Sequence[Change]) -> None:
        raise Refused

    with contextlib.suppress(Refused):
        receipts = subject.write(
            subject.put("new", b"after"),
            subject.put("old", b"after", before=before),
            session=Session(intend=refuse),
        )
        broken("a write to raise what the intent raised", receipts)
    subject.absent("new")
    subject.stands("old", b"before")
    same(subject.names(subject.backend.keys(subject.scope)), ["old"], "the names listed")


def cut_off_is_finished(subject: Subject) -> None:
    old, new = subject.state(b"old", {"k": "old"}), subject.state(b"new", {"k": "new"})
    halves = {"before": old, "after": new, "content": subject.state(b"new", {"k": "old"})}
    halves["metadata"] = subject.state(b"old", {"k": "new"})
    for name, half in halves.items():
        content = b"new" if half.content == new.content else b"old"
        value = "new" if half.metadata == new.metadata else "old"
        subject.made(name, content, {"k": value})
        put = subject.put(name, b"new", {"k": "new"}, before=old, resumed=True)
        (receipt,) = subject.write(put)
        same(receipt, Stored(key=put.key, state=new), f"the receipt of one cut off: {name}")
        subject.stands(name, b"new")
        (receipt,) = subject.write(subject.put(name, b"new", {"k": "new"}, before=old))
        same(receipt, Drifted(key=put.key, found=new), "the receipt of one that was not cut off")


def cut_off_removal_is_finished(subject: Subject) -> None:
    state = subject.made("there", b"old")
    for name in ("there", "gone"):
        (receipt,) = subject.write(subject.remove(name, state, resumed=True))
        same(receipt, Removed(key=subject.key(name)), f"the receipt of one cut off: {name}")
        subject.absent(name)


def resumed_still_guards(subject: Subject) -> None:
    theirs = subject.made("a", b"theirs")
    old = subject.state(b"old")
    _drifts(subject, subject.put("a", b"new", before=old, resumed=True), theirs)
    _drifts(subject, subject.remove("a", old, resumed=True), theirs)
    subject.stands("a", b"theirs")


def tidying(subject: Subject) -> None:
    subject.made("a", b"one")
    subject.made("d/b", b"two")
    listed = subject.listed()
    keys = [subject.key("a"), subject.key("d/b")]
    kept = subject.backend.tidy(["0"], keys, {}, subject.normalisation)

    same(list(kept), [], "the names kept")
    same(subject.listed(), listed, "the entries")


# lock

_LOCKING = frozenset({"filesystem"})
"""The kinds of stores that are known to have locks; of others `hold` may do nothing."""


def _require_free(subject: Subject) -> None:
    try:
        with subject.backend.hold("a look"):
            pass
    except LockedError:
        raise NotApplicable("somebody else holds the lock at the moment") from None


def lock_excludes(subject: Subject) -> None:
    _require_free(subject)
    with subject.backend.hold("the first"), subject.connection() as other:
        try:
            with other.hold("the second"):
                excludes = False
        except LockedError:
            excludes = True
    with subject.backend.hold("the next"):
        pass
    subject.observe("lock", "excludes" if excludes else "none")
    if not excludes:
        kind = subject.backend.endpoint.kind
        if kind in _LOCKING:
            broken("LockedError for the second of two holders", "both were let in")
        raise NotApplicable("this store has no locks")


def lock_ends(subject: Subject) -> None:
    _require_free(subject)
    for _ in range(2):
        with subject.backend.hold("the first"):
            subject.made(f"held-{subject.random.randrange(1 << 30)}")
    with contextlib.suppress(ZeroDivisionError), subject.backend.hold("one that fails"):
        raise ZeroDivisionError
    with subject.connection() as other, other.hold("the next"):
        pass


# errors


def one_bad_entry(subject: Subject) -> None:
    bad = replace(subject.put("a"), key=f"{subject.folder}/../b")
    changes = [subject.put("a"), bad, subject.put("c"), subject.put("d", before=subject.state())]
    receipts = subject.backend.write(changes, subject.normalisation)
    subject.record.keys.update(change.key for change in changes if change is not bad)

    wanted = [Stored, Failed, Stored, Drifted]
    same([type(receipt) for receipt in receipts], wanted, "the receipts")
    same([r.key for r in receipts], [change.key for change in changes], "the keys of the receipts")
    same(subject.names(subject.backend.keys(subject.scope)), ["a", "c"], "the names listed")


def failures_are_told(subject: Subject) -> None:
    bad = replace(subject.put("a"), key=f"{subject.folder}/../b")
    (receipt,) = subject.backend.write([bad], subject.normalisation)
    if not isinstance(receipt, Failed):
        broken("the receipt to be Failed", receipt)
    same(receipt.intact, True, "whether the receipt says that nothing was changed")
    if not receipt.reason.strip() or not receipt.reason.isprintable():
        broken("a reason for people, on one line", receipt.reason)


def receipts_are_what_stands(subject: Subject) -> None:
    lying = replace(subject.put("a", b"sent"), after=subject.state(b"never sent"))
    (receipt,) = subject.write(lying)
    found = subject.read("a")
    if isinstance(receipt, Stored):
        stands = subject.state(found.content) if isinstance(found, Entry) else None
        same(receipt.state, stands, "the state in the receipt")


# limits

_MOST_SENT = 8 * 1024 * 1024
"""No content larger than this is sent to find out about a limit."""


def entry_limit(subject: Subject) -> None:
    limit = subject.capabilities.max_entry_bytes
    if limit is None or limit >= _MOST_SENT:
        subject.observe("max_entry_bytes", "not tried")
        raise NotApplicable("no limit on content is declared, or it is large")
    subject.made("most", b"x" * limit)
    subject.stands("most", b"x" * limit)
    (receipt,) = subject.write(subject.put("more", b"x" * (limit + 1)))
    subject.observe("max_entry_bytes", f"{limit} bytes were accepted")
    if isinstance(receipt, Stored):
        subject.note("content beyond the declared limit was accepted")
        return
    if not (isinstance(receipt, Failed) and receipt.intact):
        broken("content beyond the limit to fail, with nothing changed", receipt)
    subject.absent("more")


def name_limit(subject: Subject) -> None:
    limit = subject.capabilities.max_segment_bytes
    length = min(limit or 241, 1023 - len(subject.folder))
    names = ["n" * length, "n" * (length - 1) + "m"]
    for name in names:
        subject.made(name, name[-1].encode())
    for name in names:
        subject.stands(name, name[-1].encode())
    subject.observe("max_segment_bytes", f"{length} bytes were accepted")
    if limit is None or length < limit:
        return
    change = subject.put("m" * (length + 1))
    (receipt,) = subject.write(change)
    if isinstance(receipt, Stored):
        subject.note("a name beyond the declared limit was accepted")
    elif not isinstance(receipt, Failed):
        broken("a name beyond the limit to fail", receipt)


def longest_key(subject: Subject) -> None:
    left = 1024 - len(subject.folder) - 1
    name = "/".join(c * 200 for c in "abcdefgh")[: left - 1].rstrip("/")
    names = [name + "x", name + "y"]
    for name in names:
        subject.made(name, name[-1].encode())

    for name in names:
        subject.stands(name, name[-1].encode())
    same(subject.names(subject.backend.keys(subject.scope)), names, "the names listed")


# identity


def endpoint_without_secrets(subject: Subject) -> None:
    endpoint = subject.backend.endpoint
    url = urlsplit(endpoint.location)
    if not endpoint.kind or not endpoint.location:
        broken("a kind and a location", endpoint)
    if url.scheme in ("http", "https") and (url.username or url.password or url.query):
        # Not quoted: it may hold a password.
        broken("a location without user, password and query", "one that has them")


def same_endpoint_again(subject: Subject) -> None:
    subject.made("a")
    with subject.connection() as other:
        same(other.endpoint, subject.backend.endpoint, "the endpoint of a second connection")
        same(other.capabilities, subject.capabilities, "the capabilities of a second connection")
        same(other.present(), True, "whether the store is present")
        other.close()
    same(subject.backend.present(), True, "whether the store is present")
    subject.stands("a", b"x")


def vanished(subject: Subject) -> None:
    vanish = subject.faults.vanish
    if vanish is None:
        raise NotApplicable("only somebody inside of the store can take it away")
    subject.made("a")
    with vanish():
        same(subject.backend.present(), False, "whether a store that was taken away is present")
    same(subject.backend.present(), True, "whether the store is present again")


# chaos


def model(subject: Subject) -> None:
    """Random changes, some of them stale, in batches; a dict says what must come of them."""
    random = subject.random
    names = ["a", "b", "c", "d/a", "d/b", "e/f/a"]
    held: dict[str, State] = {}
    for _ in range(12):
        changes: list[Change] = []
        wanted: list[Receipt] = []
        for name in random.sample(names, random.randrange(1, len(names))):
            key, now = subject.key(name), held.get(name)
            stale = random.random() < 0.25
            before = subject.state(b"never seen") if stale else now
            if before is not None and random.random() < 0.3:
                changes.append(subject.remove(name, before))
                outcome: Receipt = Removed(key=key)
            else:
                content = random.randbytes(random.randrange(40)).hex().encode()
                change = subject.put(name, content, {"k": random.randrange(5)}, before=before)
                changes.append(change)
                outcome = Stored(key=key, state=change.after)
            if before != now:
                outcome = Drifted(key=key, found=now)
            elif isinstance(outcome, Stored):
                held[name] = outcome.state
            else:
                del held[name]
            wanted.append(outcome)
        same(subject.write(*changes), wanted, "the receipts")
    for name in names:
        if name in held:
            found = subject.entry(name)
            state = subject.normalisation.state(found.content, found.metadata)
            same(state, held[name], f"the state of {name}")
        else:
            same(subject.read(name), Absent(key=subject.key(name)), f"the answer for {name}")
    same(subject.names(item.key for item in subject.listed()), sorted(held), "the names listed")


def outside_is_untouched(subject: Subject) -> None:
    before, now = subject.record.outside, subject.outside()
    for found in (before, now):
        if isinstance(found, str):
            raise NotApplicable(f"what is outside cannot be listed: {found}")
    assert isinstance(before, dict)
    assert isinstance(now, dict)
    changed = [key for key in sorted(before | now) if before.get(key, _GONE) != now.get(key, _GONE)]
    if changed:
        broken("nothing to change outside, by the backend or by somebody else", changed)


_GONE = object()
