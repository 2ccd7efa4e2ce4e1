"""Backends that break one promise each, and the check that has to find it.

Each is a few lines around a backend that keeps all promises, and hides its fault where it can.
"""

from __future__ import annotations

import contextlib
import posixpath
import time
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

from msgspec.structs import replace

from hdev_memory.backends.base import (
    EVERYTHING,
    UNATTENDED,
    Drifted,
    Endpoint,
    Failed,
    Put,
    Remove,
    Removed,
    Session,
    Stored,
)
from hdev_memory.core.entry import Absent, Capabilities, Entry, EntryState, Parts, Unreadable
from hdev_memory.errors import LockedError, StoreError


class Animal:
    """A backend that passes everything on to another one."""

    store = "ephemeral"

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.inner.close()

    def look(self, key):
        return next(iter(self.inner.read([key])))

    def state(self, key, normal):
        found = self.look(key)
        return normal.state(found.content, found.metadata) if isinstance(found, Entry) else None


class Folder(Animal):
    """The same, around a folder."""

    store = "filesystem"


class Sly(Animal):
    """Stores something else than it was given, and says that it stored what it was given."""

    def stored(self, put):
        return put

    def write(self, batch, normal, session=UNATTENDED):
        changes = [self.stored(c) if isinstance(c, Put) else c for c in batch]
        return [
            replace(receipt, state=change.after) if isinstance(receipt, Stored) else receipt
            for change, receipt in zip(
                batch, self.inner.write(changes, normal, session), strict=True
            )
        ]


class Bending(Animal):
    """Takes a name for another one, as well when it is read as when it is written."""

    def bent(self, key):
        return key

    def write(self, batch, normal, session=UNATTENDED):
        receipts = self.inner.write(
            [replace(c, key=self.bent(c.key)) for c in batch], normal, session
        )
        return [replace(r, key=c.key) for c, r in zip(batch, receipts, strict=True)]

    def read(self, keys):
        for key in keys:
            yield replace(self.look(self.bent(key)), key=key)


class Trusting(Animal):
    """Takes whatever stands there for what was expected, where `trusts` says so."""

    def trusts(self, change, now):
        return False

    def write(self, batch, normal, session=UNATTENDED):
        changes = []
        for change in batch:
            now = self.state(change.key, normal)
            trusted = self.trusts(change, now)
            changes.append(replace(change, before=now) if trusted else change)
        return self.inner.write(changes, normal, session)


# What is read


class TakesErrorsForAbsence(Folder):
    def read(self, keys):
        for found in self.inner.read(keys):
            yield Absent(key=found.key) if isinstance(found, Unreadable) else found


class LeavesTheUnreadableOut(Folder):
    def snapshot(self, scope, normal):
        return (i for i in self.inner.snapshot(scope, normal) if isinstance(i, EntryState))


class TakesEmptyForAbsent(Animal):
    def read(self, keys):
        for found in self.inner.read(keys):
            empty = isinstance(found, Entry) and not found.content
            yield Absent(key=found.key) if empty else found


class RaisesForAbsence(Animal):
    def read(self, keys):
        for found in self.inner.read(keys):
            if isinstance(found, Absent):
                raise StoreError("There is no such entry.")
            yield found


class FindsTheNearest(Animal):
    def read(self, keys):
        for found in self.inner.read(keys):
            near = self.look(found.key[:-1]) if isinstance(found, Absent) else found
            yield replace(near, key=found.key)


class AnswersSorted(Animal):
    def read(self, keys):
        return self.inner.read(sorted(keys))


class AnswersEachKeyOnce(Animal):
    def read(self, keys):
        return self.inner.read(dict.fromkeys(keys))


class MakesWhatIsReadAppear(Animal):
    def read(self, keys):
        for found in self.inner.read(keys):
            if isinstance(found, Absent) and "looking-creates-nothing" in found.key:
                self.inner._entries[found.key] = (b"", {})
            yield found


class KnowsNoParts(Animal):
    def parts(self, key, normal):
        return Parts(content=None, metadata=None)


# What is listed


class ListsBackwards(Animal):
    def snapshot(self, scope, normal):
        return reversed(list(self.inner.snapshot(scope, normal)))


class SortsByFolder(Animal):
    def keys(self, scope=EVERYTHING):
        return iter(sorted(self.inner.keys(scope), key=lambda key: key.split("/")))


class ListsOnePage(Animal):
    def snapshot(self, scope, normal):
        return iter(list(self.inner.snapshot(scope, normal))[:50])


class ListsTwice(Animal):
    def snapshot(self, scope, normal):
        for item in self.inner.snapshot(scope, normal):
            yield item
            yield item


class ListsFromMemory(Animal):
    seen: dict = {}  # noqa: RUF012 - forgotten with the process

    def snapshot(self, scope, normal):
        for item in self.inner.snapshot(scope, normal):
            yield self.seen.setdefault((id(self.inner._entries), item.key), item)


class ListsEverything(Animal):
    def snapshot(self, scope, normal):
        return self.inner.snapshot(EVERYTHING, normal)


class ListsEveryKey(Animal):
    def keys(self, scope=EVERYTHING):
        return self.inner.keys(EVERYTHING)


# What is stored


class ConvertsLineEnds(Sly):
    def stored(self, put):
        return replace(put, content=put.content.replace(b"\r\n", b"\n"))


class StripsTheByteOrderMark(Sly):
    def stored(self, put):
        return replace(put, content=put.content.removeprefix(b"\xef\xbb\xbf"))


class AddsANewline(Sly):
    def stored(self, put):
        added = b"" if put.content.endswith(b"\n") or not put.content else b"\n"
        return replace(put, content=put.content + added)


class StripsBlanks(Sly):
    def stored(self, put):
        return replace(put, content=put.content.rstrip())


class CutsLargeContent(Sly):
    def stored(self, put):
        return replace(put, content=put.content[:65_536])


class DropsControlCharacters(Sly):
    def stored(self, put):
        return replace(put, content=put.content.replace(b"\0", b""))


class KeepsTheSameSize(Sly):
    """Takes content of the same length for unchanged."""

    def stored(self, put):
        found = self.look(put.key)
        same = isinstance(found, Entry) and len(found.content) == len(put.content)
        return replace(put, content=found.content) if same else put


class DropsMetadata(Sly):
    def stored(self, put):
        return replace(put, metadata={})


class CountsVersions(Sly):
    def stored(self, put):
        return replace(put, metadata={**put.metadata, "version": 1})


class MergesMetadata(Sly):
    def stored(self, put):
        found = self.look(put.key)
        old = found.metadata if isinstance(found, Entry) else {}
        return replace(put, metadata={**old, **put.metadata})


class RaisesTheDead(Sly):
    """Brings the metadata of a removed entry back with the next one of its name."""

    def __init__(self, inner):
        super().__init__(inner)
        self.dead = {}

    def write(self, batch, normal, session=UNATTENDED):
        for change in batch:
            found = self.look(change.key)
            if isinstance(change, Remove) and isinstance(found, Entry):
                self.dead[change.key] = {"ghost": found.metadata}
        return super().write(batch, normal, session)

    def stored(self, put):
        return replace(put, metadata={**self.dead.get(put.key, {}), **put.metadata})


class RemovesNothing(Animal):
    def write(self, batch, normal, session=UNATTENDED):
        held = dict(self.inner._entries)
        receipts = self.inner.write(batch, normal, session)
        for receipt in receipts:
            if isinstance(receipt, Removed) and receipt.key in held:
                self.inner._entries[receipt.key] = held[receipt.key]
        return receipts


class StoresInItsCache(Animal):
    """Only this connection knows what was written through it."""

    def __init__(self, inner):
        super().__init__(inner)
        self.inner._entries = dict(self.inner._entries)


class LimitsLess(Sly):
    """Declares more than it takes."""

    def __init__(self, inner):
        super().__init__(inner)
        self.capabilities = replace(inner.capabilities, max_entry_bytes=5000)

    def stored(self, put):
        return replace(put, content=put.content[:4096])


# Names


class FoldsCase(Bending):
    def bent(self, key):
        return key.casefold()


class NormalisesUnicode(Bending):
    def bent(self, key):
        return unicodedata.normalize("NFC", key)


class DecodesPercent(Bending):
    def bent(self, key):
        return unquote(key)


class CutsAtTheHash(Bending):
    def bent(self, key):
        return key.partition("#")[0]


class ReplacesTheSuffix(Bending):
    def bent(self, key):
        parent, slash, name = key.rpartition("/")
        return parent + slash + (name[0] + name[1:].partition(".")[0])


class ResolvesPaths(Bending):
    def bent(self, key):
        return posixpath.normpath("/" + key).lstrip("/")


class CutsLongNames(Bending):
    def bent(self, key):
        parent, slash, name = key.rpartition("/")
        return parent + slash + name[:200]


class CutsLongKeys(Bending):
    def bent(self, key):
        return key[:512]


class TouchesNeighbours(Animal):
    def write(self, batch, normal, session=UNATTENDED):
        receipts = self.inner.write(batch, normal, session)
        for change in batch:
            for key in [k for k in self.inner._entries if k == change.key + "-b"]:
                self.inner._entries[key] = (b"touched", {})
        return receipts


class TouchesOthers(Animal):
    def write(self, batch, normal, session=UNATTENDED):
        self.inner._entries["theirs/a"] = (b"touched", {})
        return self.inner.write(batch, normal, session)


class RemovesBelow(Animal):
    def write(self, batch, normal, session=UNATTENDED):
        receipts = self.inner.write(batch, normal, session)
        for receipt in receipts:
            if isinstance(receipt, Removed):
                for key in [k for k in self.inner._entries if k.startswith(receipt.key + "/")]:
                    del self.inner._entries[key]
        return receipts


class SeesNoObstacle(Folder):
    def obstacle(self, key):
        return None


# Preconditions


class CreatesOverOthers(Trusting):
    def trusts(self, change, now):
        return change.before is None


class IgnoresIfMatch(Trusting):
    def trusts(self, change, now):
        return isinstance(change, Put) and None not in (change.before, now)


class ComparesContentOnly(Trusting):
    def trusts(self, change, now):
        return (
            now is not None and change.before is not None and change.before.content == now.content
        )


class RemovesUnseen(Trusting):
    def trusts(self, change, now):
        return isinstance(change, Remove) and now is not None


class CreatesWhatIsToBeOverwritten(Trusting):
    def trusts(self, change, now):
        return isinstance(change, Put) and now is None


class RemovedWhatWasNotThere(Animal):
    def write(self, batch, normal, session=UNATTENDED):
        return [
            Removed(key=c.key)
            if isinstance(c, Remove) and isinstance(r, Drifted) and not r.found
            else r
            for c, r in zip(batch, self.inner.write(batch, normal, session), strict=True)
        ]


class LooksOnlyBefore(Animal):
    """Declares `atomic`, and looks before the intent only."""

    kinds = (Put, Remove)

    def write(self, batch, normal, session=UNATTENDED):
        ready = [c for c in batch if self.state(c.key, normal) == c.before]
        session.intend(ready)
        late = [c for c in ready if isinstance(c, self.kinds) and self.interesting(c)]
        now = {c.key: self.state(c.key, normal) for c in late}
        changes = [replace(c, before=now[c.key]) if c in late else c for c in batch]
        return self.inner.write(changes, normal)

    def interesting(self, change):
        return True


class LooksOnlyBeforeCreating(LooksOnlyBefore):
    def interesting(self, change):
        return change.before is None


class LooksOnlyBeforeOverwriting(LooksOnlyBefore):
    kinds = (Put,)

    def interesting(self, change):
        return change.before is not None


class LooksOnlyBeforeRemoving(LooksOnlyBefore):
    kinds = (Remove,)


class LooksThenWrites(Animal):
    """Looks and writes in two steps, with others in between."""

    def write(self, batch, normal, session=UNATTENDED):
        session.intend(batch)
        receipts = []
        for change in batch:
            now = self.state(change.key, normal)
            time.sleep(0.002)  # what a slow disk takes
            if now != change.before:
                receipts.append(Drifted(key=change.key, found=now))
            elif isinstance(change, Put):
                self.inner._entries[change.key] = (change.content, change.metadata)
                receipts.append(Stored(key=change.key, state=change.after))
            else:
                self.inner._entries.pop(change.key, None)
                receipts.append(Removed(key=change.key))
        return receipts


class LosesUpdates(LooksThenWrites):
    """The same; the check that counts sees it as well."""


# What others see meanwhile


class WritesInHalves(Animal):
    def write(self, batch, normal, session=UNATTENDED):
        for change in batch:
            if isinstance(change, Put) and self.state(change.key, normal) == change.before:
                held = self.inner._entries.get(change.key)
                half = change.content[: len(change.content) // 2]
                self.inner._entries[change.key] = (half, change.metadata)
                time.sleep(0.005)  # what a slow disk takes
                if held is None:
                    del self.inner._entries[change.key]
                else:
                    self.inner._entries[change.key] = held
        return self.inner.write(batch, normal, session)


class AddsMetadataLater(WritesInHalves):
    def write(self, batch, normal, session=UNATTENDED):
        for change in batch:
            if (
                isinstance(change, Put)
                and change.before is None
                and not self.state(change.key, normal)
            ):
                self.inner._entries[change.key] = (change.content, {})
                time.sleep(0.005)  # what a slow disk takes
                del self.inner._entries[change.key]
        return self.inner.write(batch, normal, session)


class RemovesToOverwrite(Animal):
    def write(self, batch, normal, session=UNATTENDED):
        for change in batch:
            if change.before is not None and self.state(change.key, normal) == change.before:
                held = self.inner._entries.pop(change.key)
                time.sleep(0.005)  # what a slow disk takes
                self.inner._entries[change.key] = held
        return self.inner.write(batch, normal, session)


# The intent, and changes that were cut off


class TellsTheIntentAfterwards(Animal):
    def write(self, batch, normal, session=UNATTENDED):
        receipts = self.inner.write(batch, normal)
        session.intend(batch)
        return receipts


class TellsNoIntent(Animal):
    def write(self, batch, normal, session=UNATTENDED):
        return self.inner.write(batch, normal)


class TellsOneIntentForEach(Animal):
    def write(self, batch, normal, session=UNATTENDED):
        return [self.inner.write([change], normal, session)[0] for change in batch]


class IntendsEverything(Animal):
    def write(self, batch, normal, session=UNATTENDED):
        session.intend(batch)
        return self.inner.write(batch, normal)


class IgnoresAFailedIntent(Animal):
    def write(self, batch, normal, session=UNATTENDED):
        def intend(changes):
            with contextlib.suppress(Exception):
                session.intend(changes)

        return self.inner.write(batch, normal, Session(session.run, intend))


class ForgetsItWasCutOff(Animal):
    kind = Put

    def write(self, batch, normal, session=UNATTENDED):
        changes = [replace(c, resumed=False) if isinstance(c, self.kind) else c for c in batch]
        return self.inner.write(changes, normal, session)


class ForgetsARemovalWasCutOff(ForgetsItWasCutOff):
    kind = Remove


class ResumesOverOthers(Trusting):
    def trusts(self, change, now):
        return change.resumed and now is not None


class TidiesTooMuch(Animal):
    def tidy(self, runs, keys, cut_off, normal):
        for key in keys:
            self.inner._entries.pop(key, None)
        return ()


# Locks


class NeverLocks(Folder):
    def hold(self, holder):
        return contextlib.nullcontext()


class NeverUnlocks(Folder):
    held: set = set()  # noqa: RUF012 - for ever

    @contextlib.contextmanager
    def hold(self, holder) -> Iterator[None]:
        if holder != "a look":
            if self.endpoint.location in self.held:
                raise LockedError("Locked.")
            self.held.add(self.endpoint.location)
        yield


class StaysLockedAfterAnError(NeverUnlocks):
    @contextlib.contextmanager
    def hold(self, holder) -> Iterator[None]:
        with super().hold(holder):
            yield
        self.held.discard(self.endpoint.location)


# Receipts and limits


class ReceiptsBackwards(Animal):
    def write(self, batch, normal, session=UNATTENDED):
        return list(reversed(self.inner.write(batch, normal, session)))


class NoReceiptForFailures(Animal):
    def write(self, batch, normal, session=UNATTENDED):
        receipts = self.inner.write(batch, normal, session)
        return [receipt for receipt in receipts if not isinstance(receipt, Failed)]


class AlwaysStored(Animal):
    def write(self, batch, normal, session=UNATTENDED):
        self.inner.write(batch, normal, session)
        return [
            Stored(key=c.key, state=c.after) if isinstance(c, Put) else Removed(key=c.key)
            for c in batch
        ]


class AllOrNothing(Animal):
    def write(self, batch, normal, session=UNATTENDED):
        refusals = [self.inner._refused(change, normal) for change in batch]
        if any(refusals):
            return [Failed(key=c.key, reason="another one failed", intact=True) for c in batch]
        return self.inner.write(batch, normal, session)


class FailsWithoutAWord(Animal):
    def write(self, batch, normal, session=UNATTENDED):
        receipts = self.inner.write(batch, normal, session)
        return [replace(r, reason="") if isinstance(r, Failed) else r for r in receipts]


class BelievesWhatItIsTold(Sly):
    """Its receipts are what should stand, not what was read back."""


# Identity


class ShowsThePassword(Animal):
    endpoint = Endpoint(kind="http", location="https://ann:hunter2@example.com")


class AnotherStoreEachTime(Animal):
    opened = iter(range(1 << 30))

    def __init__(self, inner):
        super().__init__(inner)
        self.endpoint = replace(inner.endpoint, store=f"store-{next(self.opened)}")


class AlwaysPresent(Folder):
    def present(self):
        return True


class Crashes(Animal):
    """Not a promise at all: it raises what nobody expects."""

    def write(self, batch, normal, session=UNATTENDED):
        raise ZeroDivisionError

    capabilities = Capabilities(cas="atomic", durability="unknown")


ZOO: dict[type[Animal], str] = {
    TakesErrorsForAbsence: "unreadable",
    LeavesTheUnreadableOut: "unreadable",
    TakesEmptyForAbsent: "empty-content",
    RaisesForAbsence: "absence",
    FindsTheNearest: "absence",
    AnswersSorted: "reading-in-order",
    AnswersEachKeyOnce: "reading-in-order",
    MakesWhatIsReadAppear: "looking-creates-nothing",
    KnowsNoParts: "parts",
    ListsBackwards: "complete-and-sorted",
    SortsByFolder: "complete-and-sorted",
    ListsOnePage: "healthy",
    ListsTwice: "complete-and-sorted",
    ListsFromMemory: "states-of-now",
    ListsEverything: "scope",
    ListsEveryKey: "scope",
    ConvertsLineEnds: "line-ends",
    StripsTheByteOrderMark: "byte-order-mark",
    AddsANewline: "blanks-at-the-ends",
    StripsBlanks: "blanks-at-the-ends",
    CutsLargeContent: "large-content",
    DropsControlCharacters: "every-script",
    KeepsTheSameSize: "overwrite",
    DropsMetadata: "new-entry",
    CountsVersions: "metadata-round-trip",
    MergesMetadata: "metadata-as-declared",
    RaisesTheDead: "model",
    RemovesNothing: "removal",
    StoresInItsCache: "found-again",
    LimitsLess: "entry-limit",
    FoldsCase: "names-of-other-case",
    NormalisesUnicode: "names-of-other-normal-form",
    DecodesPercent: "names-that-decode",
    CutsAtTheHash: "unusual-names",
    ReplacesTheSuffix: "names-with-dots",
    ResolvesPaths: "keys-that-escape",
    CutsLongNames: "name-limit",
    CutsLongKeys: "longest-key",
    TouchesNeighbours: "neighbours",
    TouchesOthers: "outside",
    RemovesBelow: "entry-beside-folder",
    SeesNoObstacle: "obstacles",
    CreatesOverOthers: "create-over-existing",
    IgnoresIfMatch: "stale-overwrite",
    ComparesContentOnly: "stale-metadata",
    RemovesUnseen: "stale-removal",
    CreatesWhatIsToBeOverwritten: "overwriting-nothing",
    RemovedWhatWasNotThere: "removing-nothing",
    LooksOnlyBeforeCreating: "interleaved-create",
    LooksOnlyBeforeOverwriting: "interleaved-overwrite",
    LooksOnlyBeforeRemoving: "interleaved-removal",
    LooksThenWrites: "one-winner",
    LosesUpdates: "no-lost-update",
    WritesInHalves: "overwrites-seen-whole",
    RemovesToOverwrite: "overwrites-seen-whole",
    AddsMetadataLater: "creations-seen-whole",
    TellsTheIntentAfterwards: "nothing-before-intent",
    TellsNoIntent: "nothing-before-intent",
    TellsOneIntentForEach: "nothing-before-intent",
    IntendsEverything: "intent-names-changes",
    IgnoresAFailedIntent: "failing-intent",
    ForgetsItWasCutOff: "cut-off-is-finished",
    ForgetsARemovalWasCutOff: "cut-off-removal-is-finished",
    ResumesOverOthers: "resumed-still-guards",
    TidiesTooMuch: "tidying",
    NeverLocks: "lock-excludes",
    NeverUnlocks: "lock-excludes",
    StaysLockedAfterAnError: "lock-ends",
    ReceiptsBackwards: "one-bad-entry",
    NoReceiptForFailures: "one-bad-entry",
    AlwaysStored: "create-over-existing",
    AllOrNothing: "one-bad-entry",
    FailsWithoutAWord: "failures-are-told",
    BelievesWhatItIsTold: "receipts-are-what-stands",
    ShowsThePassword: "endpoint-without-secrets",
    AnotherStoreEachTime: "same-endpoint-again",
    AlwaysPresent: "vanished",
    Crashes: "new-entry",
}
"""A broken backend -> the check that finds it."""
