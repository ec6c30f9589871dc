"""Many runs: what follows from records costs a share of a sweep, and a record is parsed once in a process."""

import os

import played
import pytest
from test_sweep import bytes_below, planned

from lamm_cl.cli import doors
from lamm_cl.config.cards import load_scenario
from lamm_cl.errors import UserError
from lamm_cl.reports.derived import derived_files
from lamm_cl.results import remembered
from lamm_cl.results.runs import records_in
from lamm_cl.sweeping.execute import EVERY, SHARE, Settings, execute
from lamm_cl.sweeping.publish import tidy


@pytest.fixture
def demo():
    return load_scenario("demo")


class Clock:
    """Stands still unless it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def done(runs, tmp_path, clock, report=lambda event: None, publish=doors.publish, train=played.train):
    return execute(runs, Settings(None, tmp_path, "cpu", 1), report, train=train, publish=publish, clock=clock)


# --- publishing ------------------------------------------------------------------------------------------------------


def test_reports_are_brought_up_to_date_after_the_first_run_and_at_the_end_of_a_quick_sweep(demo, tmp_path):
    published = []

    def publish(run, tell):
        published.append(run.seed)
        doors.publish(run, tell)

    assert done(planned(demo, tmp_path, seeds=[1, 2, 3, 4]), tmp_path, Clock(), publish=publish) == []

    assert published == [1, 4]
    assert all((tmp_path / "demo" / name).read_text() == text for name, text in derived_files(tmp_path / "demo").items())


@pytest.mark.parametrize(("cost", "pause"), [(0.001, EVERY), (1.0, 1 / SHARE)])
def test_between_two_publications_lie_some_seconds_and_a_hundred_times_what_one_costs(demo, tmp_path, cost, pause):
    clock, published = Clock(), []

    def publish(run, tell):
        published.append(clock.now)
        clock.now += cost

    def train(run, settings, progress):
        played.train(run, settings, progress)
        clock.now += pause / 2 - 1e-6 if run.seed < 4 else pause

    done(planned(demo, tmp_path, seeds=[1, 2, 3, 4]), tmp_path, clock, publish=publish, train=train)

    assert [round(when / pause, 1) for when in published] == [0.5, 2.5]


def test_an_interrupted_sweep_leaves_reports_of_what_is_finished(demo, tmp_path):
    def interrupt(event):
        if event.run.seed == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        done(planned(demo, tmp_path, seeds=[1, 2, 3]), tmp_path, Clock(), interrupt)

    assert all((tmp_path / "demo" / name).read_text() == text for name, text in derived_files(tmp_path / "demo").items())


def test_what_was_found_up_to_date_is_not_computed_again_before_a_file_there_is_another(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(remembered.Memory, "TICK", 0.0)
    runs, asked = planned(demo, tmp_path, seeds=[1, 2]), []
    done(runs, tmp_path, Clock())
    whole, table = bytes_below(tmp_path / "demo"), tmp_path / "demo/tables/degradation.md"

    def derived(folder):
        asked.append(folder)
        return doors.derived(folder)

    for _ in range(3):
        tidy(runs, derived, cache=tmp_path / "cache")
    assert len(asked) == 1

    table.write_text(table.read_text().replace("CoOp", "CoOP"))
    tidy(runs, derived, cache=tmp_path / "cache")
    assert bytes_below(tmp_path / "demo") == whole  # made good, as without a note
    asked.clear()
    for path in (table, runs[0].folder / "record.json"):
        tidy(runs, derived, cache=tmp_path / "cache")
        assert asked == []
        path.write_bytes(path.read_bytes())  # the same, but who knows
        tidy(runs, derived, cache=tmp_path / "cache")
        assert len(asked) == 1
        asked.clear()


def test_a_file_that_changed_this_very_moment_is_not_noted_as_up_to_date(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(remembered.Memory, "TICK", 3600.0)
    runs, asked = planned(demo, tmp_path, seeds=[1]), []
    done(runs, tmp_path, Clock())

    for _ in range(2):
        tidy(runs, lambda folder: asked.append(folder) or doors.derived(folder), cache=tmp_path / "cache")

    assert len(asked) == 2 and not (tmp_path / "cache/derived").exists()


# --- reading ---------------------------------------------------------------------------------------------------------


def parsed_while(monkeypatch, work):
    """How often a record is parsed meanwhile."""
    count, real = [], remembered.read_record
    monkeypatch.setattr(remembered, "read_record", lambda path: count.append(path) or real(path))
    work()
    return len(count)


@pytest.fixture
def three(demo, tmp_path, monkeypatch):
    """Three finished runs, of which nothing is remembered."""
    runs = planned(demo, tmp_path, seeds=[1, 2, 3])
    done(runs, tmp_path, Clock())
    monkeypatch.setattr(remembered.Memory, "TICK", -1.0)
    monkeypatch.setattr(remembered, "_MEMORY", remembered.Memory())
    return runs


def test_one_more_finished_run_is_one_more_record_to_read(demo, three, tmp_path, monkeypatch):
    records_in(tmp_path / "demo")
    [fourth] = planned(demo, tmp_path, seeds=[4])
    played.train(fourth, Settings(None, tmp_path, "cpu", 1), lambda at: None)

    assert parsed_while(monkeypatch, lambda: doors.publish(fourth)) == 1
    assert len(records_in(tmp_path / "demo")) == 4


def test_a_record_that_is_another_file_is_read_again(three, tmp_path):
    records_in(tmp_path / "demo")
    path = three[0].folder / "record.json"
    facts = path.stat()
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 7'))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # of the same size and time

    with pytest.raises(UserError, match="was changed since it was written"):
        records_in(tmp_path / "demo")


def test_what_was_written_a_moment_ago_is_not_remembered(demo, tmp_path):
    [run] = planned(demo, tmp_path, seeds=[1])
    done([run], tmp_path, Clock())
    memory = remembered.Memory()

    memory.read(run.folder / "record.json")

    assert not memory.known and memory.held == 0


def test_what_is_remembered_is_limited_by_the_sizes_of_the_files(three, monkeypatch):
    sizes = [(run.folder / "record.json").stat().st_size for run in three]
    monkeypatch.setattr(remembered.Memory, "LARGEST", sum(sizes[:2]) + 1)
    memory = remembered.Memory()

    for run in three:
        memory.read(run.folder / "record.json")

    assert len(memory.known) == 2 and memory.held == sum(sizes[1:])


def test_a_published_sweep_leaves_the_same_bytes_however_often_it_was_published(demo, tmp_path):
    for name, step in (("often", 3600.0), ("seldom", 0.0)):
        clock = Clock()

        def tick(event, clock=clock, step=step):
            clock.now += step

        done(planned(demo, tmp_path / name, seeds=[1, 2, 3]), tmp_path, clock, tick)

    assert bytes_below(tmp_path / "often") == bytes_below(tmp_path / "seldom")
