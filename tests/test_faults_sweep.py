"""A sweep does not stop for its reports, for the end of a worker, or for what cannot be removed."""

import errno
import os
import signal

import played
import pytest
import strange
from strange import called, soon
from test_sweep import bytes_below, executed, planned

from lamm_cl.cli import doors, main
from lamm_cl.config.cards import load_scenario
from lamm_cl.errors import UserError
from lamm_cl.reports.derived import derived_files
from lamm_cl.sweeping.execute import Settings, _Worker
from lamm_cl.sweeping.publish import tidy


@pytest.fixture
def demo():
    return load_scenario("demo")


def kinds(events):
    return [event.kind for event in events if event.kind not in ("started", "progress")]


def failing(monkeypatch, operation, kind, times, of="degradation.md"):
    """The file's `operation` fails so many times."""
    left, real = [times], getattr(os, operation)

    def refuse(*arguments, **more):
        wanted = operation != "replace" or str(arguments[-1]).endswith(of)
        if wanted and left[0] > 0:
            left[0] -= 1
            raise OSError(kind, os.strerror(kind))
        return real(*arguments, **more)

    monkeypatch.setattr(os, operation, refuse)


# --- reports ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", strange.ERRNOS, ids=lambda kind: errno.errorcode[kind])
def test_reports_that_cannot_be_written_are_told_once_and_written_after_the_next_run(demo, tmp_path, monkeypatch, kind):
    failing(monkeypatch, "replace", kind, times=2)
    events, failures = executed(planned(demo, tmp_path, seeds=[1, 2, 3, 4]), tmp_path)

    assert failures == []
    assert kinds(events) == ["unpublished", "finished", "finished", "published", "finished", "finished"]
    assert os.strerror(kind) in events[2].text and "\n" not in events[2].text
    assert all((tmp_path / "demo" / name).read_text() == text for name, text in derived_files(tmp_path / "demo").items())


def test_reports_are_tried_again_at_the_end_of_a_sweep(demo, tmp_path, monkeypatch):
    failing(monkeypatch, "replace", errno.EIO, times=2)
    events, _ = executed(planned(demo, tmp_path, seeds=[1, 2]), tmp_path)

    assert kinds(events) == ["unpublished", "finished", "finished", "published"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_damaged_record_of_another_run_stops_no_run(demo, tmp_path, jobs):
    [foreign] = planned(demo, tmp_path, seeds=[9], methods=["lamm"])
    foreign.folder.mkdir(parents=True)
    (foreign.folder / "record.json").write_text("{")

    events, failures = executed(planned(demo, tmp_path, seeds=[1, 2, 3]), tmp_path, jobs)

    assert failures == [] and sorted(e.run.seed for e in events if e.kind == "finished") == [1, 2, 3]
    assert kinds(events).count("unpublished") == 1
    assert str(foreign.folder) in next(event.text for event in events if event.kind == "unpublished")


def test_a_defect_in_the_reports_stops_no_run(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(doors, "derived", lambda folder: 1 / 0)
    events, failures = executed(planned(demo, tmp_path, seeds=[1, 2]), tmp_path)

    assert failures == [] and kinds(events) == ["unpublished", "finished", "finished"]
    assert events[2].text == "reports are not up to date: ZeroDivisionError: division by zero"


def test_the_command_line_tells_what_keeps_the_reports_and_ends_with_status_2(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(doors, "train", played.train)
    [foreign] = planned(demo, tmp_path, seeds=[9], methods=["lamm"])
    foreign.folder.mkdir(parents=True)
    (foreign.folder / "record.json").write_text("{")
    words = ["run", "demo", "--dataset", "species", "--method", "coop", "--seed", 1, "--results", tmp_path]

    for _ in range(2):  # the second time there is nothing to do but the reports
        with soon(30):
            status, said = called(*words, "--cache", tmp_path / "cache")
        assert status == 2 and said.count("\n") == 1 and "record.json: not a whole JSON file" in said
    assert (tmp_path / "demo/runs/species/coop/shots16-seed1/record.json").exists()

    monkeypatch.setattr(main.run, "_derive", lambda *_: 0)
    (foreign.folder / "record.json").unlink()
    assert called(*words, "--cache", tmp_path / "cache")[0] == 0 and (tmp_path / "demo/records.csv").exists()


# --- workers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "name"), [(signal.SIGSEGV, "SIGSEGV"), (35, "signal 35"), (64, "SIGRTMAX")])
def test_a_worker_killed_by_any_signal_fails_its_run_only(demo, tmp_path, number, name):
    [run] = planned(demo, tmp_path, seeds=[played.FOREVER])
    worker = _Worker(Settings(None, tmp_path, "cpu", 2), played.train)
    try:
        worker.give(run)
        assert worker.receive().kind == "progress"
        os.kill(worker.process.pid, number)
        with soon(10):
            event = worker.receive()
    finally:
        worker.process.kill()
        worker.process.join()

    assert event.kind == "failed" and f"killed by {name}" in event.text


def test_a_worker_that_dies_in_the_middle_of_a_word_fails_its_run_only(demo, tmp_path, monkeypatch):
    [run] = planned(demo, tmp_path, seeds=[1])
    worker = _Worker(Settings(None, tmp_path, "cpu", 2), played.train)
    worker.give(run)
    worker.process.kill()
    worker.process.join()

    def cut_off():
        raise OSError("got end of file during message")

    monkeypatch.setattr(type(worker.pipe), "recv", lambda self: cut_off())
    assert worker.receive().kind == "failed"


def test_a_worker_begins_without_a_moment_in_which_ctrl_c_is_lost(tmp_path):
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        start = _Worker.__init__.__globals__["get_context"]("spawn").Process.start

        def interrupted(process):
            os.kill(os.getpid(), signal.SIGINT)
            start(process)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_Worker.__init__.__globals__["get_context"]("spawn").Process, "start", interrupted)
            worker = _Worker(Settings(None, tmp_path, "cpu", 2), played.train)
        assert heard == [1] and not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGINT}
        worker.pipe.close()
        worker.process.join(20)
    finally:
        signal.signal(signal.SIGINT, before)


# --- what cannot be removed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["unlink", "rmdir"])
def test_what_cannot_be_removed_at_the_end_of_a_run_fails_nothing(demo, tmp_path, monkeypatch, operation):
    executed(planned(demo, tmp_path / "whole", seeds=[1, 2]), tmp_path)
    with monkeypatch.context() as patch:
        failing(patch, operation, errno.EIO, times=10**9)
        events, failures = executed(planned(demo, tmp_path / "results", seeds=[1]), tmp_path)
        assert failures == [] and "finished" in kinds(events)

    with soon(30):
        executed(planned(demo, tmp_path / "results", seeds=[2]), tmp_path)
    left = {name: content for name, content in bytes_below(tmp_path / "results/demo").items() if "lock" not in name}
    assert left == bytes_below(tmp_path / "whole/demo")


def test_a_traceback_that_could_not_be_removed_goes_with_the_next_call(demo, tmp_path):
    [run] = planned(demo, tmp_path, seeds=[1])
    executed([run], tmp_path)
    (run.folder / "traceback.txt").write_text("of an unlink that failed")

    tidy([run], doors.derived)

    assert not (run.folder / "traceback.txt").exists()


def test_a_traceback_that_cannot_be_written_stops_no_run(demo, tmp_path, monkeypatch):
    failing(monkeypatch, "replace", errno.EIO, times=10**9, of="traceback.txt")
    events, [failed] = executed(planned(demo, tmp_path, seeds=[played.CRASH, 1]), tmp_path)

    assert failed.run.seed == played.CRASH and "RuntimeError" in failed.text
    assert [event.run.seed for event in events if event.kind == "finished"] == [1]


@pytest.mark.parametrize("operation", ["fsync", "replace", "chmod", "mkdir", "rename", "unlink", "rmdir"])
@pytest.mark.parametrize("kind", strange.ERRNOS, ids=lambda kind: errno.errorcode[kind])
def test_whatever_fails_once_the_same_command_ends_with_the_same_bytes(demo, tmp_path, monkeypatch, operation, kind):
    executed(planned(demo, tmp_path / "whole", seeds=[1]), tmp_path)
    with monkeypatch.context() as patch:
        failing(patch, operation, kind, times=1, of="")
        _, failures = executed(planned(demo, tmp_path / "results", seeds=[1]), tmp_path)
    assert all(failed.mistake and "\n" not in failed.text for failed in failures)

    with soon(30):
        runs = planned(demo, tmp_path / "results", seeds=[1])
        executed(runs, tmp_path)
        tidy(runs, doors.derived)
    assert bytes_below(tmp_path / "results/demo") == bytes_below(tmp_path / "whole/demo")


def test_a_mistake_stays_a_mistake(demo, tmp_path):
    with pytest.raises(UserError):
        executed(planned(demo, tmp_path, seeds=[1], methods=["copo"]), tmp_path)
