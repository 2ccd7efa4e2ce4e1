"""Any sequence of edits, plans, applies, crashes, resumes and rollbacks keeps the promises.

The model is plain dicts of plain bytes, and imports no product code for what it expects; the code
under test is the real engine on real folders, with a disk that dies at a chosen operation.
"""

import contextlib
import hashlib
import itertools
import json
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hdev_memory import apply as engine
from hdev_memory import durable, plandir, planning, rollback
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.core.plan import Limits, Options, Provenance
from hdev_memory.errors import HdevError
from tests.conftest import examples

KEYS = ["a", "b", "d/a", "d/e/v1.2", "global"]
BYTES = [b"", b"one\n", b"two\r\n", "drei ü".encode()]
META = [{}, {"k": 1}, {"k": "ü", "version": 3}]
entries = st.tuples(st.sampled_from(BYTES), st.sampled_from(META))
BOOKKEEPING = ("created", "updated", "version")


class Crash(BaseException):
    """The machine is gone."""


class DyingDisk(durable.Disk):
    """Dies before the n-th operation, and does nothing any more afterwards."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.dead = False

    def __getattribute__(self, name: str):
        found = object.__getattribute__(self, name)
        if not callable(found) or name.startswith("_"):
            return found

        def counted(*words, **more):
            self.left -= 1
            if self.left < 0:
                self.dead = True
                raise Crash
            return found(*words, **more)

        return counted


def sidecar(metadata):
    return json.dumps(metadata, indent=2).encode()


def put(root, key, entry):
    content, metadata = entry
    path = root / f"{key}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    (root / f"{key}.metadata.json").write_bytes(sidecar(metadata))


def drop(root, key):
    (root / f"{key}.md").unlink()
    (root / f"{key}.metadata.json").unlink()


def held(root):
    """What a folder holds, read without product code: key -> (content, metadata)."""
    found = {}
    for path in root.rglob("*.md"):
        key = str(path.relative_to(root))[:-3]
        meta = root / f"{key}.metadata.json"
        found[key] = (path.read_bytes(), json.loads(meta.read_bytes()) if meta.exists() else None)
    return found


def same(one, other):
    """Alike as far as plans compare: bookkeeping aside."""
    if one is None or other is None:
        return one is other
    trimmed = [
        {k: v for k, v in (entry[1] or {}).items() if k not in BOOKKEEPING}
        for entry in (one, other)
    ]
    return one[0] == other[0] and trimmed[0] == trimmed[1]


class Migration(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="state-machine-"))
        self.source, self.target = self.root / "source", self.root / "target"
        self.plans = itertools.count(1)
        self.plan = None  # folder of the plan in hand
        self.steps = {}  # key -> (before, after), as the model worked it out
        self.begun = False  # a run of this plan may have written
        self.done = False
        self.undoing = False  # the plan in hand is a rollback

    def teardown(self):
        shutil.rmtree(self.root)

    @initialize(
        ours=st.dictionaries(st.sampled_from(KEYS), entries, min_size=1),
        theirs=st.dictionaries(st.sampled_from(KEYS), entries),
    )
    def begin(self, ours, theirs):
        self.source.mkdir()
        self.target.mkdir()
        for key, entry in ours.items():
            put(self.source, key, entry)
        for key, entry in theirs.items():
            put(self.target, key, entry)

    @contextlib.contextmanager
    def ends(self):
        source = self.root / self.from_where if self.undoing else self.source
        with (
            FilesystemBackend(str(source), must_exist=True) as ours,
            FilesystemBackend(str(self.target), must_exist=False) as theirs,
        ):
            yield ours, theirs

    def request(self, *, guarded=True):
        return planning.Request(
            options=Options(
                overwrite=True,
                delete=True,
                max_delete="100%",
                compare="all",
                include=(),
                exclude=(),
                limits=Limits(max_entry_bytes=1 << 20),
            ),
            source_label="s",
            target_label="t",
            home="",
            provenance=Provenance(
                created="2026-01-01T00:00:00Z", expires="2026-01-08T00:00:00Z", tool="test"
            ),
            guarded=guarded,
        )

    def run(self, now=datetime(2026, 1, 2, tzinfo=UTC)):
        """One apply; what it raised, or its outcome."""
        with (
            self.ends() as (ours, theirs),
            plandir.load(self.plan) as opened,
            plandir.Journal(self.plan) as journal,
        ):
            engine.check_expiry(opened.plan, now)
            run = engine.Run(
                run=hashlib.sha256(str(next(self.plans)).encode()).hexdigest()[:16],
                actor="test",
                now=lambda: now,
            )
            return engine.apply(opened, ours, theirs, journal, run)

    # What people and other programs do

    @rule(key=st.sampled_from(KEYS), entry=entries)
    def somebody_writes_the_source(self, key, entry):
        if held(self.source).get(key) != entry:
            put(self.source, key, entry)

    @rule(key=st.sampled_from(KEYS), entry=entries)
    def somebody_writes_the_target(self, key, entry):
        put(self.target, key, entry)

    @rule(key=st.sampled_from(KEYS))
    def somebody_removes_from_the_target(self, key):
        if key in held(self.target) and (self.target / f"{key}.metadata.json").exists():
            drop(self.target, key)

    # What we do

    @rule()
    def make_a_plan(self):
        if self.half_written():
            return
        ours, theirs = held(self.source), held(self.target)
        self.undoing = False
        folder = self.root / f"plan-{next(self.plans)}"
        with self.ends() as (source, target):
            lines = planning.plan(source, target, self.request())
            plandir.create(folder, lines, lambda opened: "").close()
        self.plan, self.begun, self.done = folder, False, False
        placeholder = b"Global memory storage for critical information"
        self.steps = {
            key: (theirs.get(key), ours.get(key))
            for key in ours.keys() | theirs.keys()
            if not same(ours.get(key), theirs.get(key))
            and not (key == "global" and key not in ours and theirs[key][0] == placeholder)
        }

    def half_written(self):
        return self.begun and not self.done

    def fits(self):
        """Whether the plan may run: each target entry as before or after, sources as planned."""
        theirs, ours = held(self.target), self.read_source()
        return all(
            (same(theirs.get(key), before) and (after is None or same(ours.get(key), after)))
            or same(theirs.get(key), after)
            for key, (before, after) in self.steps.items()
        )

    def read_source(self):
        return held(self.root / self.from_where) if self.undoing else held(self.source)

    @precondition(lambda self: self.plan and not self.begun)
    @rule()
    def apply_it(self):
        before, fits = held(self.target), self.fits()
        try:
            outcome = self.run()
        except HdevError:
            assert not fits
            assert held(self.target) == before
        else:
            assert fits
            assert outcome.complete
            self.check_end(before)
            self.begun = self.done = True

    @precondition(lambda self: self.plan and not self.done)
    @rule(operations=st.integers(0, 60))
    def apply_it_and_die(self, operations):
        before = held(self.target)
        disk = DyingDisk(operations)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(durable, "disk", disk)
            with contextlib.suppress(Crash, HdevError):
                self.run()
        self.begun = True
        after = held(self.target)
        for key, entry in before.items():  # the frame
            if key not in self.steps:
                assert after[key] == entry
        for key, entry in after.items():  # old or new, in each part
            if key in self.steps and entry != before.get(key):
                ends = [end for end in self.steps[key] if end is not None]
                assert entry[0] in [end[0] for end in ends]

    @precondition(lambda self: self.half_written())
    @rule()
    def resume_it(self):
        before = held(self.target)
        try:
            outcome = self.run()
        except HdevError:
            assert held(self.target) == before
        else:
            assert outcome.complete, outcome.failures
            self.check_end(before)
            self.done = True

    def check_end(self, before):
        after = held(self.target)
        for key in KEYS:
            if key in self.steps:
                assert same(after.get(key), self.steps[key][1])
            else:
                assert after.get(key) == before.get(key)
        names = [path.name for path in self.target.rglob("*")]
        assert not [name for name in names if name.startswith(durable.STAGED_PREFIX)]

    @precondition(lambda self: self.done and self.steps)
    @rule()
    def roll_it_back(self):
        folder = self.root / f"plan-{next(self.plans)}"
        pre_images = self.plan / plandir.BACKUP
        theirs = held(self.target)
        stands = all(
            same(theirs.get(key), after) or same(theirs.get(key), before)
            for key, (before, after) in self.steps.items()
        )
        with (
            plandir.load(self.plan) as opened,
            FilesystemBackend(str(pre_images), must_exist=True) as source,
            FilesystemBackend(str(self.target), must_exist=False) as target,
        ):
            log = plandir.read_audit(self.plan)
            intended = {record.key for record, _ in log if record.event == "intent"}
            undo = rollback.survey(opened, target, intended, {})
            assert stands or undo.changed or not all(key in intended for key in self.steps)
            if undo.changed:
                return
            readers = rollback.ends(opened, source, target, undo)
            lines = planning.plan(*readers, self.request(guarded=False))
            plandir.create(folder, lines, lambda made: "").close()
        self.from_where = str(pre_images.relative_to(self.root))
        self.steps = {
            key: (theirs.get(key), before)
            for key, (before, after) in self.steps.items()
            if same(theirs.get(key), after) and not same(before, after) and key in intended
        }
        self.plan, self.begun, self.done, self.undoing = folder, False, False, True

    @precondition(lambda self: self.plan)
    @rule(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
    def a_flipped_bit_is_refused(self, place, bit):
        path = self.plan / plandir.PLAN
        whole = path.read_bytes()
        at = int(place * len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
        with pytest.raises(HdevError):
            plandir.load(self.plan).close()
        path.write_bytes(whole)

    @precondition(lambda self: self.plan and not self.begun)
    @rule()
    def a_late_apply_is_refused(self):
        before = held(self.target)
        with pytest.raises(HdevError):
            self.run(datetime(2026, 1, 8, tzinfo=UTC) + timedelta(days=1))
        assert held(self.target) == before

    @invariant()
    def the_log_is_a_chain(self):
        if self.plan and (self.plan / plandir.AUDIT).exists():
            with plandir.Journal(self.plan):
                pass


Migration.TestCase.settings = settings(
    max_examples=examples(75),
    stateful_step_count=25,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
test_any_sequence_keeps_the_promises = Migration.TestCase
