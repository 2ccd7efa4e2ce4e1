"""Two readers -> a plan. Nothing here can write to a store: it only ever holds readers."""

from __future__ import annotations

import contextlib
import ipaddress
import os.path
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from hdev_memory.backends import postgres_url
from hdev_memory.backends.base import Endpoint, Reader, Scope, Stretched
from hdev_memory.core import events
from hdev_memory.core.diff import (
    AnyAction,
    Outcome,
    Rules,
    Seen,
    TargetOnly,
    Unchanged,
    UnchangedStretch,
    diff,
)
from hdev_memory.core.entry import EntryState, Normalisation, agree
from hdev_memory.core.plan import (
    End,
    Finding,
    Head,
    Options,
    Provenance,
    Summary,
    Tail,
    Tally,
    UnchangedDigest,
    encode,
)
from hdev_memory.core.policy import Facts, held
from hdev_memory.core.stretch import Stretch
from hdev_memory.errors import PolicyError, StoreError, UsageError
from hdev_memory.findings import Judge, Watch

_EVERY = 500
"""Entries between two progress events of one side."""


@dataclass(frozen=True)
class Request:
    """What a plan is made from, beside the two ends.

    `home` is replaced by `~` in recorded paths, so that a plan names no person's folder. The rest
    is for plans from narrowed readers: findings that are known beforehand, how many entries of the
    target are not looked at, and whether a mass of deletes is refused. `judge` is the policy that
    the plan is judged by, which it records.
    """

    options: Options
    source_label: str
    target_label: str
    provenance: Provenance
    home: str
    findings: tuple[Finding, ...] = ()
    elsewhere: int = 0
    guarded: bool = True
    judge: Judge | None = None


def plan(
    source: Reader,
    target: Reader,
    request: Request,
    emit: events.Emit = events.silent,
    *,
    passed: Callable[[Seen], object] | None = None,
) -> Iterator[bytes]:
    """The bytes of the plan, as a stream; both ends are read while it is consumed.

    `passed` is told of everything that the target holds, in the order of keys.

    Raises StoreError when the ends are one and the same, PolicyError when it would delete more than
    it may, and whatever the readers raise; what was yielded until then is then worth nothing.
    """
    refuse_same_store(source, target)
    options = request.options
    scope = Scope(options.include, options.exclude)
    normalisation = agree(source.capabilities, target.capabilities)
    rules = Rules(
        overwrite=options.overwrite,
        delete=options.delete,
        compare=options.compare,
        capabilities=target.capabilities,
    )
    head = Head(
        source=_end(source, request.source_label, request.home),
        target=_end(target, request.target_label, request.home),
        options=options,
        normalisation=normalisation,
    )
    ours = _Counted("source", source, emit)
    theirs = _Counted("target", target, emit)
    collector = _Collector(normalisation, request.elsewhere)
    # A server's answers come by threads that hash (its TLS), and beside those there is no fork.
    aside = source.endpoint.kind == target.endpoint.kind == "filesystem"
    watch = Watch([request.judge] if request.judge is not None else [])

    def tail() -> Tail:
        refuse_same_store(source, target)  # a snapshot may have met the other's store below it
        summary = collector.summary(ignored=source.ignored)
        if request.guarded:
            guard_deletes(summary, theirs.entries, options.max_delete)
        watch.look(source, normalisation, _changed_meanwhile)
        return Tail(
            unchanged=collector.unchanged.result(),
            summary=summary,
            findings=request.findings
            + _judged(watch, head, summary, request.provenance.created)
            + _findings(head, summary),
            effect=collector.tally.effect(normalisation),
            provenance=request.provenance,
        )

    with (
        watch,
        contextlib.closing(ours.counted(_seen(source, scope, normalisation, aside=aside))) as left,
        contextlib.closing(theirs.counted(_seen(target, scope, normalisation))) as right,
    ):
        standing = right if passed is None else _told(right, passed)
        outcomes = diff(left, standing, rules, target.obstacle)
        yield from encode(head, watch.watched(collector.actions(outcomes)), tail)


def _told(items: Iterable[Seen], passed: Callable[[Seen], object]) -> Iterator[Seen]:
    for item in items:
        passed(item)
        yield item


def _judged(watch: Watch, head: Head, summary: Summary, created: str) -> tuple[Finding, ...]:
    facts = Facts(
        summary=summary,
        held=held(summary),
        source=head.source.label,
        target=head.target.label,
        cas=head.target.capabilities.cas,
        created=created,
    )
    return watch.findings(facts, created)


def _changed_meanwhile(key: str) -> None:
    raise StoreError(
        "An entry was changed while the plan was made, so its content could not be judged.",
        why=f"It is {key} in the source.",
        hint="Run `hdev plan` again; nothing was written.",
    )


def _seen(
    reader: Reader, scope: Scope, normalisation: Normalisation, *, aside: bool = False
) -> Iterator[Seen]:
    """The snapshot of `reader` in whatever form is fastest; `aside` as in `Stretched`."""
    if isinstance(reader, Stretched):
        return reader.stretches(scope, normalisation, aside=aside)
    return reader.snapshot(scope, normalisation)


class _Collector:
    """Lets the actions through, and counts what goes by."""

    def __init__(self, normalisation: Normalisation, elsewhere: int) -> None:
        self.tally = Tally()
        self.unchanged = UnchangedDigest()
        self._normalisation = normalisation
        self._target_only = elsewhere

    def actions(self, outcomes: Iterable[Outcome]) -> Iterator[AnyAction]:
        for outcome in outcomes:
            match outcome:
                case UnchangedStretch(stretch=stretch):
                    self.unchanged.add_stretch(stretch)
                case Unchanged(key=key, state=state):
                    self.unchanged.add(key, state)
                case TargetOnly(readable=readable):
                    self._target_only += readable
                case _:
                    self.tally.add(outcome)
                    yield outcome

    def summary(self, *, ignored: int) -> Summary:
        unchanged = self.unchanged.count
        return Summary(
            create=self.tally.counts["create"],
            overwrite=self.tally.counts["overwrite"],
            delete=self.tally.counts["delete"],
            skip=self.tally.counts["skip"],
            blocked=self.tally.counts["blocked"],
            unchanged=unchanged,
            found=self.tally.found(unchanged),
            target_only=self._target_only,
            ignored=ignored,
            bytes=self.tally.bytes,
        )


class _Counted:
    """Tells how far a snapshot is."""

    def __init__(
        self, side: Literal["source", "target"], reader: Reader, emit: events.Emit
    ) -> None:
        self._side = side
        self._reader = reader
        self._emit = emit
        self._bytes = 0
        self.entries = 0

    def counted(self, snapshot: Iterator[Seen]) -> Generator[Seen, None, None]:
        """The same items; closing this closes the snapshot. How far it came is told however it
        ends."""
        ended = False
        told = 0
        self._tell(ended=False)
        try:
            for item in snapshot:
                if isinstance(item, Stretch):
                    self.entries += item.count
                    self._bytes += item.size
                else:
                    self.entries += 1
                    if isinstance(item, EntryState):
                        self._bytes += item.state.bytes
                if self.entries - told >= _EVERY:
                    told = self.entries
                    self._tell(ended=False)
                yield item
            ended = True
        finally:
            if isinstance(snapshot, Generator):
                snapshot.close()
            self._tell(ended=ended)

    def _tell(self, *, ended: bool) -> None:
        self._emit(
            events.Looked(
                side=self._side,
                entries=self.entries,
                bytes=self._bytes,
                expected=self._reader.expected,
                ended=ended,
            )
        )


def _end(reader: Reader, label: str, home: str) -> End:
    endpoint = reader.endpoint
    return End(
        kind=endpoint.kind,
        location=portable(endpoint, home),
        label=label,
        store=endpoint.store,
        capabilities=reader.capabilities,
    )


def portable(endpoint: Endpoint, home: str) -> str:
    """The location as a plan records it: the home folder as `~`."""
    location = endpoint.location
    if endpoint.kind in ("filesystem", "sqlite") and home not in ("", "/"):
        if location == home:
            return "~"
        if location.startswith(home.rstrip("/") + "/"):
            return "~" + location[len(home.rstrip("/")) :]
    return location


def refuse_same_store(source: Reader, target: Reader) -> None:
    """Raise StoreError when one end is the other, or lies in it, also through its own server.

    A server that announces no identity cannot be recognised behind its address.
    """
    one, other = source.endpoint, target.endpoint
    what = "Source and target are the same memory, or one lies inside the other."
    hint = "Give two different places; nothing was read or written."
    if one.kind == other.kind == "filesystem":
        first, second = os.path.realpath(one.location), os.path.realpath(other.location)
        if os.path.commonpath([first, second]) in (first, second):
            raise StoreError(what, why=f"{first} and {second}.", hint=hint)
    elif same_place(one, other):
        raise StoreError(what, why=f"Both are {one.location}.", hint=hint)
    for here, there in ((source, other), (target, one)):
        if there.store is not None and there.store in _stores(here):
            raise StoreError(
                what,
                why=f"{there.location} keeps its entries in {here.endpoint.location}.",
                hint=hint,
            )


def same_place(one: Endpoint, other: Endpoint) -> bool:
    """Whether two endpoints are one; a server is known by its address only."""
    if one.kind == other.kind == "filesystem":
        return os.path.realpath(one.location) == os.path.realpath(other.location)
    if one.kind == other.kind == "sqlite":
        try:
            return os.path.samefile(one.location, other.location)  # also by another name of it
        except OSError:
            return os.path.realpath(one.location) == os.path.realpath(other.location)
    if one.kind == other.kind == "postgres":
        return postgres_url.parse(one.location).place == postgres_url.parse(other.location).place
    return one.kind == other.kind and _address(one) == _address(other)


def _stores(reader: Reader) -> set[str]:
    """The identities of every store at, above or (once it has been read) below a reader's place."""
    found: set[str] = set(getattr(reader, "stores", ()))
    return found | ({reader.endpoint.store} if reader.endpoint.store is not None else set())


def _address(endpoint: Endpoint) -> tuple[object, ...]:
    if endpoint.kind != "http":
        return (endpoint.location,)
    url = urlsplit(endpoint.location)
    host = (url.hostname or "").rstrip(".")
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return ("loopback" if local else host, port, url.path.rstrip("/"))


def parse_max_delete(text: str) -> tuple[int, bool]:
    """`N` or `N%` as a number and whether it is a share; raises UsageError."""
    number = text.removesuffix("%")
    share = number != text
    if not number.isascii() or not number.isdigit() or (share and int(number) > 100):
        raise UsageError(
            "The limit on deletes must be a number or a percentage.",
            why=f"--max-delete was {text!r}.",
            hint="Give for example --max-delete 10 or --max-delete 5%.",
        )
    return int(number), share


def guard_deletes(summary: Summary, target_entries: int, max_delete: str | None) -> None:
    """Raise PolicyError when a plan would delete more than it may.

    An empty source never becomes deletes. Without `max_delete`, at most half of the target's
    entries may go: a source that is suddenly short is more often a mistake than a wish.
    """
    if not summary.delete:
        return
    if not summary.found:
        raise PolicyError(
            "The source is empty, and an empty source never becomes deletes.",
            why=f"{summary.delete} entries of the target would be deleted.",
            hint="Check the source; to empty a store on purpose, delete it with its own tools.",
        )
    number, share = parse_max_delete(max_delete if max_delete is not None else "50%")
    limit = target_entries * number // 100 if share else number
    if summary.delete > limit:
        stated = f"--max-delete {max_delete}" if max_delete else "half of the target's entries"
        raise PolicyError(
            "The plan would delete more than it may.",
            why=f"It would delete {summary.delete} of {target_entries} entries; the limit is "
            f"{limit} ({stated}).",
            hint=f"If that is what you want, plan again with --max-delete {summary.delete}.",
        )


def _findings(head: Head, summary: Summary) -> tuple[Finding, ...]:
    texts: list[tuple[str, str]] = []
    if head.normalisation.line_ends == "lf":
        texts.append(
            (
                "line_ends",
                "One end returns CRLF and CR as LF: exact bytes cannot be verified there.",
            )
        )
    if head.target.capabilities.metadata == "merge":
        texts.append(
            ("metadata_merge", "The target merges metadata: keys that only it has will stay.")
        )
    if head.target.capabilities.cas != "atomic":
        texts.append(
            (
                "cas",
                "The target is not written conditionally: entries are re-read around each write.",
            )
        )
    if summary.blocked:
        are = "entry is" if summary.blocked == 1 else "entries are"
        texts.append(("blocked", f"{summary.blocked} {are} blocked and will not be copied."))
    return tuple(Finding(rule=rule, level="advisory", key=None, text=text) for rule, text in texts)
