"""The benchmarks themselves: what they measure with, and what they make of the figures."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks import __main__ as program
from tests.benchmarks import corpus, page, peers, plot
from tests.benchmarks.aims import AIMS
from tests.benchmarks.measuring import Bench, Contender, NotInstalled, Spent, row, run
from tests.benchmarks.noise import Station, Weather
from tests.benchmarks.results import Benchmark, Left, Measured, Row, Run, Side, keep, load

QUIET = Weather(cpu=[0.1, 0.1, 0.1], disk=[0.1, 0.11, 0.1], steal=0.0, foreign=0.01)
NOISY = Weather(cpu=[0.1, 0.2, 0.1], disk=[0.1, 0.11, 0.1], steal=0.0, foreign=0.4)


def tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def side(name: str, *figures: float) -> Side:
    return Side(name=name, command=f"{name} --flag", figures=list(figures), megabytes=[50.0])


def measured(ours: list[float], theirs: list[float], aim: str | None, unit: str = "s") -> Measured:
    return Measured("a row", unit, side("hdev", *ours), side("peer", *theirs), aim)


def run_of(*rows: Row, weather: Weather = QUIET) -> Run:
    return Run(
        started="2026-01-02 03:04 UTC",
        commit="0123456789ab",
        quick=False,
        machine=["2 cores"],
        programs={"rsync": "rsync 3"},
        load=0.1,
        benchmarks=[Benchmark("plan", list(rows), 61.0, weather)],
        weather=weather,
    )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, tmp_path / "stores", Station(tmp_path), quick=True)


def test_a_store_is_the_same_each_time_and_the_beginning_of_a_larger_one(tmp_path: Path) -> None:
    for name, entries in (("once", 30), ("again", 30), ("larger", 50)):
        corpus.make(tmp_path / name, entries)

    once, larger = tree(tmp_path / "once"), tree(tmp_path / "larger")
    assert len(once) == 60
    assert once == tree(tmp_path / "again")
    assert once.items() < larger.items()


def test_a_store_written_by_two_processes_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "TEAM", 5)
    corpus.make(tmp_path / "two", 60)
    monkeypatch.setattr(os, "fork", lambda: 1 / 0)
    corpus.make(tmp_path / "fewer", 45)

    assert len(tree(tmp_path / "two")) == 120
    assert tree(tmp_path / "fewer").items() < tree(tmp_path / "two").items()


def test_editing_changes_the_content_of_just_those_entries(tmp_path: Path) -> None:
    corpus.make(tmp_path / "before", 40)
    corpus.make(tmp_path / "after", 40, edited_every=10)

    before, after = tree(tmp_path / "before"), tree(tmp_path / "after")
    changed = [path for path in before if before[path] != after[path]]
    assert before.keys() == after.keys()
    assert len(changed) == 4
    assert all(path.endswith(".md") for path in changed)


def test_entries_are_about_two_kilobytes_and_differ_in_size(tmp_path: Path) -> None:
    corpus.make(tmp_path / "store", 400)
    sizes = [len(content) for path, content in tree(tmp_path / "store").items() if ".md" in path]

    assert 1600 < sum(sizes) / len(sizes) < 2600
    assert min(sizes) < 400
    assert max(sizes) > 8000


def test_the_limit_in_c_hashes_every_file(tmp_path: Path) -> None:
    corpus.make(tmp_path / "store", 20)
    try:
        limit = peers.limit(tmp_path)
    except NotInstalled as error:
        pytest.skip(str(error))
    said = subprocess.run(
        [limit, tmp_path / "store"], capture_output=True, text=True, check=True
    ).stdout

    files = tree(tmp_path / "store").values()
    whole = 0
    for content in files:
        whole ^= int.from_bytes(hashlib.sha256(content).digest(), "big")
    assert said == f"{len(files)} files, {sum(map(len, files))} bytes, {whole:064x}\n"


def test_every_aim_is_answered_by_one_benchmark() -> None:
    answered = [aim for measure in program.MEASURES.values() for aim in measure.aims]

    assert sorted(answered) == sorted(AIMS)


def test_a_benchmark_that_fails_leaves_a_row_for_each_of_its_aims(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(bench: Bench) -> Iterator[Row]:
        yield measured([1.0], [1.0], "plan-rsync")
        raise RuntimeError("rsync exited with 23")

    measure = program.Measure(broken, ("plan-rsync", "plan-limit"))
    monkeypatch.setitem(program.MEASURES, "plan", measure)
    first, second = program.measured("plan", bench).rows

    assert isinstance(first, Measured)
    assert second == Left("plan", "RuntimeError: rsync exited with 23", "plan-limit")


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (measured([1.4, 1.5, 1.4], [1.0, 1.0, 1.0], "plan-limit"), "met"),
        (measured([1.6, 1.7, 1.8], [1.0, 1.0, 1.0], "plan-limit"), "not met"),
        (measured([1.4, 1.6, 1.7], [1.0, 1.0, 1.0], "plan-limit"), "too noisy to tell"),
        (measured([6300.0], [300.0], "server-migrator", "entries/s"), "met"),
        (measured([5700.0], [300.0], "server-migrator", "entries/s"), "not met"),
        (Measured("a row", "MB", side("hdev", 299), aim="million-plan"), "met"),
        (Measured("a row", "MB", side("hdev", 301), aim="million-plan"), "not met"),
        (measured([9.0], [1.0], None), ""),
        (measured([60.0, 61.0], [50.0, 51.0, 52.0], "plan-memory", "MB"), "met"),
    ],
)
def test_a_row_knows_whether_its_rounds_reach_the_aim(row: Measured, verdict: str) -> None:
    assert row.verdict == verdict


def test_speed_is_how_often_the_peer_could_be_passed() -> None:
    assert measured([2.0], [1.0], None).speed == 0.5
    assert measured([2.0], [1.0], None, "entries/s").speed == 2.0
    assert measured([2.0], [1.0], None, "MB").speed is None


def test_contenders_take_turns_at_coming_first(bench: Bench) -> None:
    seen: list[str] = []

    def contender(name: str) -> Contender:
        def work() -> Spent:
            seen.append(name)
            return Spent(len(seen))

        return Contender(name, name, work)

    first, second = bench.compare(contender("a"), contender("b"), rounds=2)

    assert seen == ["a", "b", "a", "b", "b", "a"]
    assert isinstance(first, Side)
    assert first.figures == [3, 6]
    assert isinstance(second, Side)
    assert second.figures == [4, 5]


def test_a_peer_that_is_missing_is_a_row_that_says_what_to_install(bench: Bench) -> None:
    def missing() -> Spent:
        raise NotInstalled("rsync is not installed (Debian: apt-get install rsync)")

    ours, theirs = bench.compare(
        Contender("hdev", "hdev", lambda: Spent(1.0)), Contender("rsync", "rsync", missing)
    )
    found = row("plan", "s", ours, theirs, "plan-rsync")

    assert isinstance(found, Left)
    assert "apt-get install rsync" in found.why
    assert "apt-get install rsync" in page.document([run_of(found)])


def test_a_program_is_measured_with_the_memory_that_it_took(tmp_path: Path) -> None:
    spent = run([sys.executable, "-c", "x = bytearray(64_000_000)"], home=tmp_path)

    assert spent.megabytes is not None
    assert 64 < spent.megabytes < 90
    with pytest.raises(RuntimeError, match="exited with 3: sorry"):
        run([sys.executable, "-c", "import sys; print('sorry', file=sys.stderr); exit(3)"],
            home=tmp_path)  # fmt: skip
    with pytest.raises(RuntimeError, match="could not be started"):
        run([str(tmp_path / "missing")], home=tmp_path)


def test_the_page_says_in_bold_that_the_machine_was_too_noisy() -> None:
    one = measured([1.0], [1.0], "plan-rsync")

    assert "The machine was quiet" in page.document([run_of(one)])
    noisy = page.document([run_of(one, weather=NOISY)])
    assert "**The machine was too noisy (processor ±50%, 40% used by others)**" in noisy
    assert "met; **noisy machine: processor ±50%, 40% used by others**" in noisy


def test_the_page_has_a_row_for_each_aim_and_says_what_stands_in_the_way() -> None:
    text = page.document([run_of(measured([2.0], [1.0], "plan-limit"))])

    summary = text.partition("## Aims")[2].partition("![")[0]
    for aim in AIMS.values():
        assert f"| {aim.job} | {aim.text} |" in summary
    assert AIMS["plan-limit"].hurdle in summary
    assert AIMS["resume"].hurdle not in summary
    assert "| **not met** |" in summary


def test_the_page_tells_one_run_from_several() -> None:
    one = run_of(measured([1.0], [1.0], "plan-rsync"))

    assert "commit `0123456789ab`" in page.document([one])
    assert "are of 2 runs" not in page.document([one])
    assert "**The figures below are of 2 runs**" in page.document([one, one])


def test_the_plot_is_one_well_formed_picture_with_a_bar_for_each_comparison() -> None:
    rows = [
        measured([1.0], [3.0], "plan-rsync"),
        measured([5.0], [1.0], "plan-limit"),
        Measured("<memory> & more", "s", side("hdev", 1.0), side("peer", 70.0)),
        Measured("no bar", "MB", side("hdev", 1.0), aim="million-plan"),
    ]
    root = ElementTree.fromstring(plot.svg([run_of(*rows)]))  # noqa: S314 - our own

    bars = [
        found
        for found in root.iter("{http://www.w3.org/2000/svg}rect")
        if found.get("height") == "14"
    ]
    assert [bar.get("class") for bar in bars] == ["met", "missed", "plain"]
    texts = "".join(root.itertext())
    assert "<memory> & more" in texts
    assert "no bar" not in texts


def test_what_a_run_has_found_can_be_kept(tmp_path: Path) -> None:
    runs = [run_of(measured([1.0], [1.0], None), Left("a row", "why"))]
    keep(tmp_path / "build" / "results.json", runs)

    assert load(tmp_path / "build" / "results.json") == runs
    assert load(tmp_path / "missing.json") == []


def test_a_filesystem_in_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "_filesystem", lambda place: "tmpfs")
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--place", str(tmp_path), "start"])
    with pytest.raises(SystemExit):
        program.main()

    assert "where a sync costs nothing" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
