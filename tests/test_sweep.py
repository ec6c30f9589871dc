"""A sweep: which runs there are, which are finished, and that none of them harms another.

Training is played by tests/played.py, here and in the worker processes.
"""

import csv
import errno
import multiprocessing
import os
import signal
from pathlib import Path

import played
import pytest

from lamm_cl.cli import doors
from lamm_cl.config.cards import load_scenario
from lamm_cl.errors import UserError
from lamm_cl.reports.derived import derived_files
from lamm_cl.sweeping import execute as execute_module
from lamm_cl.sweeping import locks
from lamm_cl.sweeping.execute import Settings, _Worker, execute
from lamm_cl.sweeping.plan import plan, unfinished
from lamm_cl.sweeping.publish import tidy


@pytest.fixture
def demo():
    return load_scenario("demo")


def planned(scenario, results, seeds=(1, 2), methods=("coop",)):
    return plan(scenario, results, datasets=["species"], methods=methods, seeds=seeds)


def executed(runs, tmp_path, jobs=1, train=played.train):
    """-> the events of a sweep, and its failures."""
    events = []
    settings = Settings(data_root=None, cache=tmp_path / "cache", device="cpu", jobs=jobs)
    failures = execute(runs, settings, events.append, train=train, publish=doors.publish)
    return events, failures


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- planning --------------------------------------------------------------------------------------------------------


def test_a_plan_holds_every_dataset_method_shots_and_seed_once(demo, tmp_path):
    runs = plan(demo, tmp_path)

    assert len(runs) == len({run.folder for run in runs}) == 4 * 4 * 3
    assert runs[0].folder == tmp_path / "demo/runs/species/zero-shot/shots16-seed1"
    assert runs[0].identity == {"scenario": "demo", "dataset": "species", "method": "zero-shot", "shots": 16, "seed": 1}


def test_filters_replace_the_lists_of_the_scenario_and_keep_its_overrides(demo, tmp_path):
    runs = plan(demo, tmp_path, datasets=["digits"], methods=["maple+lamm"], shots=[4, "full"], seeds=[7])

    assert [run.folder.name for run in runs] == ["shots4-seed7", "shotsfull-seed7"]
    assert runs[0].card.context.options["depth"] == 3


def test_a_dataset_under_two_names_is_refused_as_one_folder(demo, tmp_path):
    with pytest.raises(UserError, match="another dataset is called 'Flowers102' too"):
        plan(demo, tmp_path, datasets=["Flowers102", "flowers102"])


# --- executing -------------------------------------------------------------------------------------------------------


def test_finished_runs_are_not_done_again(demo, tmp_path):
    executed(planned(demo, tmp_path, seeds=[1]), tmp_path)

    todo = unfinished(planned(demo, tmp_path, seeds=[1, 2]))

    assert [run.seed for run in todo] == [2]


def test_two_jobs_write_the_same_bytes_as_one(demo, tmp_path):
    for jobs in (1, 2):
        executed(planned(demo, tmp_path / str(jobs), seeds=[1, 2, 3]), tmp_path, jobs)

    one, two = (bytes_below(tmp_path / name / "demo") for name in ("1", "2"))
    assert len([name for name in one if not str(name).startswith("tables")]) == 3 + 2  # records, scenario.yaml, records.csv
    assert one == two


def test_records_csv_and_tables_hold_every_finished_run_whenever_they_are_due(demo, tmp_path):
    runs = planned(demo, tmp_path, seeds=[1, 2, 3])
    seen = []

    def look(event):
        if event.kind == "finished":
            with open(tmp_path / "demo/records.csv") as file:
                seen.append({row["seed"] for row in csv.DictReader(file)})
            wanted = derived_files(tmp_path / "demo")
            assert {"records.csv", "tables/degradation.tex", "tables/incremental.tex"} <= set(wanted)
            assert all((tmp_path / "demo" / name).read_text() == wanted[name] for name in wanted)

    settings = Settings(None, tmp_path, "cpu", 1)
    execute(runs, settings, look, train=played.train, publish=doors.publish, clock=lambda: 3600.0 * len(seen))

    assert seen == [{"1"}, {"1", "2"}, {"1", "2", "3"}]


def test_progress_tells_the_share_done_and_where_the_run_is(demo, tmp_path):
    events, _ = executed(planned(demo, tmp_path, seeds=[1]), tmp_path)

    assert [event.kind for event in events] == ["started", "progress", "finished"]
    assert events[1].text == "experience 1/2, epoch 1/4, train"
    assert [event.share for event in events] == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_crashes_leaves_its_traceback_and_the_others_finish(demo, tmp_path, jobs):
    events, failures = executed(planned(demo, tmp_path, seeds=[1, played.CRASH, 3]), tmp_path, jobs)

    assert sorted(event.run.seed for event in events if event.kind == "finished") == [1, 3]
    [failed] = failures
    assert (failed.run.seed, failed.mistake) == (played.CRASH, False)
    assert "RuntimeError: seed 66 crashes" in (failed.run.folder / "traceback.txt").read_text()


def test_a_mistake_of_the_users_is_one_line_and_leaves_nothing_behind(demo, tmp_path):
    _, [failed] = executed(planned(demo, tmp_path, seeds=[played.MISTAKE]), tmp_path)

    assert (failed.mistake, failed.text) == (True, "context: depth: 9, but the towers have 4 blocks")
    assert not (tmp_path / "demo").exists()


def test_a_worker_that_is_killed_fails_its_run_only(demo, tmp_path):
    events, failures = executed(planned(demo, tmp_path, seeds=[played.DEATH, 1, 2]), tmp_path, jobs=2)

    assert sorted(event.run.seed for event in events if event.kind == "finished") == [1, 2]
    assert [failed.run.seed for failed in failures] == [played.DEATH]
    assert "killed by SIGKILL; out of memory?" in failures[0].text


def test_a_worker_that_died_while_it_was_idle_fails_the_run_it_is_given(demo, tmp_path, monkeypatch):
    [run] = planned(demo, tmp_path, seeds=[1])
    worker = _Worker(Settings(None, tmp_path, "cpu", 2), played.train)
    worker.process.kill()
    worker.process.join()

    assert worker.give(run).kind == "started"
    assert (event := worker.receive()).kind == "failed" and "killed by SIGKILL" in event.text


def test_the_next_call_tries_a_failed_run_again_and_removes_its_traceback(demo, tmp_path):
    [run] = planned(demo, tmp_path, seeds=[1])
    run.folder.mkdir(parents=True)
    (run.folder / "traceback.txt").write_text("from last time")

    executed(unfinished([run]), tmp_path)

    assert sorted(path.name for path in run.folder.iterdir()) == ["record.json"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupt_goes_on_to_the_caller_and_leaves_no_process_behind(demo, tmp_path, jobs):
    def interrupt(event):
        if event.kind == "progress":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs, settings = planned(demo, tmp_path, seeds=[99, 1]), Settings(None, tmp_path, "cpu", jobs)
        execute(runs, settings, interrupt, train=played.train, publish=doors.publish)

    assert multiprocessing.active_children() == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# --- several processes on the same results ---------------------------------------------------------------------------


def test_a_run_that_another_process_does_is_waited_for_and_not_done_twice(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(execute_module, "RETRY", 0)
    first, second = planned(demo, tmp_path, seeds=[1, 2])
    other = locks.held(first.folder)
    other.__enter__()
    seen, done = [], []

    def look(event):
        seen.append((event.run.seed, event.kind))
        if event.kind == "elsewhere" and seen.count((1, "elsewhere")) == 3:
            played.train(first, Settings(None, tmp_path, "cpu", 1), print)
            done.append(first)
            other.__exit__(None, None, None)

    def once(run, settings, progress):
        assert run not in done
        played.train(run, settings, progress)

    failures = execute([first, second], Settings(None, tmp_path, "cpu", 1), look, train=once, publish=doors.publish)

    assert failures == []
    assert [kind for seed, kind in seen if seed == 2] == ["started", "progress", "finished"]
    assert [kind for seed, kind in seen if seed == 1] == ["started", "elsewhere"] * 3 + ["started", "finished"]
    assert {row["seed"] for row in csv.DictReader((tmp_path / "demo/records.csv").open())} == {"1", "2"}


def test_a_folder_that_another_process_began_with_another_protocol_is_refused(demo, tmp_path):
    other = demo.model_copy(update={"experiences": 5})
    todo = unfinished(planned(other, tmp_path, seeds=[2]))
    executed(planned(demo, tmp_path, seeds=[1]), tmp_path)

    _, [failed] = executed(todo, tmp_path)

    assert failed.mistake and "made with another scenario (experiences: 'halves', now 5)" in failed.text


def test_a_run_whose_lock_was_taken_over_stops(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(execute_module, "RETRY", 0)
    monkeypatch.setattr(locks, "HEARTBEAT", 600)
    [run] = planned(demo, tmp_path, seeds=[1])
    once = iter([True])

    def robbed(run, settings, progress):
        if next(once, False):
            lock = next((run.folder / "lock").iterdir())
            lock.rename(lock.with_name("elsewhere.0.1.token"))
            os.utime(lock.with_name("elsewhere.0.1.token"), (0, 0))  # stale, so that it is taken back
        played.train(run, settings, progress)

    events, failures = executed([run], tmp_path, train=robbed)

    assert [event.kind for event in events] == ["started", "elsewhere", "started", "progress", "finished"]
    assert failures == []


def test_what_a_killed_run_left_half_written_is_removed(demo, tmp_path):
    [run] = planned(demo, tmp_path, seeds=[1])
    (run.folder / "state").mkdir(parents=True)
    for name in ("record.json", "learned.safetensors", "state/state.safetensors"):
        path = run.folder / name
        path.with_name(f".{path.name}.abc").write_text("half")

    executed([run], tmp_path)

    assert [path for path in tmp_path.rglob("*") if path.name.startswith(".")] == []


@pytest.mark.parametrize("damaged", ["records.csv", "tables/degradation.md"])
def test_a_kill_between_a_record_and_its_end_is_made_good(demo, tmp_path, damaged):
    runs = planned(demo, tmp_path, seeds=[1, 2])
    executed(runs, tmp_path)
    whole = bytes_below(tmp_path / "demo")
    (runs[0].folder / "state").mkdir()
    (tmp_path / "demo" / damaged).write_text("")

    tidy(runs, doors.derived)

    assert bytes_below(tmp_path / "demo") == whole and not (runs[0].folder / "state").exists()


# --- no room --------------------------------------------------------------------------------------------------------


def test_a_full_gpu_fails_its_run_with_the_knobs_to_turn_and_the_others_go_on(demo, tmp_path, monkeypatch):
    import torch

    from lamm_cl.training import run as training

    def full(prepared, progress, **_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def train(run, settings, progress):
        (doors if run.seed == 1 else played).train(run, settings, progress)

    monkeypatch.setattr(training, "prepare", lambda *_: None)
    monkeypatch.setattr(training, "complete", full)
    events, [failed] = executed(planned(demo, tmp_path, seeds=[1, 2]), tmp_path, train=train)

    assert "OutOfMemoryError" in failed.text
    assert failed.text.splitlines()[-1].startswith("out of GPU memory; try --checkpoint-activations, ")
    assert [event.run.seed for event in events if event.kind == "finished"] == [2]


@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_a_full_disk_or_a_lost_permission_is_one_line_with_the_file(demo, tmp_path, monkeypatch, kind):
    def refuse(source, target):
        if Path(target).name == "record.json":
            raise OSError(kind, os.strerror(kind))
        replace(source, target)

    replace = os.replace
    monkeypatch.setattr(os, "replace", refuse)
    [run] = planned(demo, tmp_path, seeds=[1])
    _, [failed] = executed([run], tmp_path)

    told = f"{run.folder}/record.json: {os.strerror(kind)}; when that is mended, the same command goes on"
    assert (failed.mistake, failed.text) == (True, told)
    assert not (tmp_path / "demo").exists()


# --- whose results are these -----------------------------------------------------------------------------------------


def test_a_scenario_that_grew_keeps_its_results(demo, tmp_path):
    executed(planned(demo, tmp_path, seeds=[1]), tmp_path)
    grown = demo.model_copy(update={"seeds": (1, 2, 3, 4), "description": "more seeds"})

    assert [run.seed for run in unfinished(planned(grown, tmp_path, seeds=[1, 4]))] == [4]


def test_results_of_another_protocol_are_refused_with_the_field_that_differs(demo, tmp_path):
    executed(planned(demo, tmp_path, seeds=[1]), tmp_path)
    other = demo.model_copy(update={"experiences": 5})

    with pytest.raises(UserError, match=r"scenario.yaml: made with another scenario \(experiences: 'halves', now 5\)"):
        unfinished(planned(other, tmp_path, seeds=[2]))


def test_a_finished_run_of_another_card_is_refused_with_the_field_that_differs(demo, tmp_path):
    executed(planned(demo, tmp_path, seeds=[1]), tmp_path)
    other = demo.model_copy(update={"overrides": {"coop": {"training": {"augmentation": "none", "epochs": 5}}}})

    with pytest.raises(UserError, match=r"made with another card \(training.epochs: 50, now 5\)"):
        unfinished(planned(other, tmp_path, seeds=[1]))


def test_a_damaged_record_is_told_and_not_overwritten(demo, tmp_path):
    [run] = planned(demo, tmp_path, seeds=[1])
    executed([run], tmp_path)
    (run.folder / "record.json").write_text('{"format": 1, "run"')

    with pytest.raises(UserError, match="record.json: not a whole JSON file .*; delete the file to repeat this run"):
        unfinished([run])
