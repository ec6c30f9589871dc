"""Runs divided among machines without a word between them, listed for any scheduler, and put together again."""

import json
import os
import shutil
from dataclasses import replace

import played
import pytest
from strange import soon
from test_bad_input import called
from test_sweep import bytes_below, planned

from lamm_cl.cli import choice, doors, main
from lamm_cl.config.cards import load_scenario
from lamm_cl.errors import UserError
from lamm_cl.results.file import read_record, write_record
from lamm_cl.sweeping.execute import Settings, execute
from lamm_cl.sweeping.merging import merge
from lamm_cl.sweeping.plan import plan
from lamm_cl.sweeping.shards import Shard, place_of
from lamm_cl.sweeping.verify import problems


@pytest.fixture
def demo():
    return load_scenario("demo")


def done(runs, folder):
    settings = Settings(None, folder, "cpu", 1)
    assert execute(runs, settings, lambda event: None, train=played.train, publish=doors.publish) == []
    return runs[0].folder.parents[3]


# --- shards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_run_is_in_one_shard(demo, tmp_path, count):
    runs = plan(demo, tmp_path)

    shards = [Shard(index + 1, count).of(runs) for index in range(count)]

    assert sorted(map(str, sum(shards, []))) == sorted(map(str, runs))


def test_a_runs_shard_depends_on_nothing_but_what_it_is_called(demo, tmp_path):
    here, there = plan(demo, tmp_path), plan(demo, tmp_path / "elsewhere", seeds=[9, 3, 1])

    mine = {place_of(run) for run in Shard(2, 3).of(here)}

    assert {place_of(run) for run in Shard(2, 3).of(there) if run.seed in demo.seeds} == {
        place for place in mine if not place.endswith("seed2")
    }
    assert Shard(2, 3).of(planned(demo, tmp_path, seeds=range(1, 13))) and len(mine) > 8


@pytest.mark.parametrize("word", ["0/3", "4/3", "1", "1/0", "a/b", "-1/3", "1/3/5", ""])
def test_a_shard_out_of_range_is_refused_in_one_line(word):
    with pytest.raises(SystemExit) as end:
        main.main(["run", "demo", "--shard", word])
    assert end.value.code == 2


@pytest.mark.parametrize(
    ("task", "shard"),
    [
        ({"ID": 0, "COUNT": 8, "MIN": 0}, "1/8"),
        ({"ID": 7, "COUNT": 3, "MIN": 3, "STEP": 2}, "3/3"),
        ({"ID": 5, "COUNT": 5, "MIN": 1}, "5/5"),
    ],
)
def test_a_job_of_a_slurm_array_is_a_shard(monkeypatch, task, shard):
    for name, number in task.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(number))

    assert str(choice.shard("auto")) == shard


def test_outside_an_array_no_shard_is_guessed(monkeypatch):
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)

    with pytest.raises(
        UserError, match="--shard auto: no SLURM_ARRAY_TASK_ID here; expected a job of a SLURM array"
    ):
        choice.shard("auto")


def test_shards_on_one_folder_do_every_run_once_and_the_last_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(doors, "train", played.train)
    drawn = []
    monkeypatch.setattr(main.run, "_derive", lambda *_: drawn.append(True) or 0)
    words = ["run", "demo", "--dataset", "species", "--method", "coop", "--results", tmp_path, "--cache", tmp_path / "cache"]

    for index in (1, 2, 3):
        with soon(60):
            assert called(*words, "--shard", f"{index}/3")[0] == 0

    assert len(list(tmp_path.glob("demo/runs/*/*/*/record.json"))) == 3 and drawn == [True]


# --- lists for any scheduler -----------------------------------------------------------------------------------------


def test_a_plan_lists_the_runs_and_which_are_finished_and_writes_nothing(demo, tmp_path, capsys):
    done(planned(demo, tmp_path, seeds=[2]), tmp_path)
    before = bytes_below(tmp_path)
    words = ["plan", "demo", "--dataset", "species", "--method", "coop", "--results", str(tmp_path), "--format", "json"]

    assert main.main(words) == 0

    listed = json.loads(capsys.readouterr().out)
    assert [(each["run"], each["finished"]) for each in listed] == [
        ("species/coop/shots16-seed1", False), ("species/coop/shots16-seed2", True), ("species/coop/shots16-seed3", False)
    ]  # fmt: skip
    assert {"scenario": "demo", "dataset": "species", "method": "coop", "shots": 16, "seed": 1}.items() <= listed[0].items()
    assert bytes_below(tmp_path) == before


def test_a_planned_run_is_done_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(doors, "train", played.train)
    monkeypatch.setattr(main.run, "_derive", lambda *_: 0)
    words = ["run", "demo", "--results", tmp_path, "--cache", tmp_path / "cache", "--run"]

    with soon(60):
        status, said = called(*words, "species/coop/shots16-seed4")
        assert status == 2 and "--run: no run 'species/coop/shots16-seed4' in this plan; did you mean" in said
        assert called(*words, "species/coop/shots16-seed3")[0] == 0

    [record] = tmp_path.glob("demo/runs/*/*/*/record.json")
    assert record.parent.name == "shots16-seed3"


# --- putting together ------------------------------------------------------------------------------------------------


def test_folders_made_apart_give_the_bytes_of_one_folder(demo, tmp_path):
    seeds = [1, 2, 3]
    whole = done(planned(demo, tmp_path / "whole", seeds=seeds), tmp_path)
    parts = [done(planned(demo, tmp_path / str(i), seeds=some), tmp_path) for i, some in enumerate(([1, 2], [2, 3]))]

    assert merge(parts, tmp_path / "merged", doors.derived) == (3, 1)

    assert bytes_below(tmp_path / "merged") == bytes_below(whole)
    assert problems(tmp_path / "merged", doors.derived) == []


def test_packs_and_folders_are_put_together(demo, tmp_path):
    one, two = (done(planned(demo, tmp_path / str(seed), seeds=[seed]), tmp_path) for seed in (1, 2))
    assert called("pack", two, "-o", tmp_path / "two.pack")[0] == 0

    assert called("merge", one, tmp_path / "two.pack", "-o", tmp_path / "merged")[0] == 0

    assert problems(tmp_path / "merged", doors.derived) == [] and len(list((tmp_path / "merged").glob("runs/*/*/*"))) == 2


def changed(folder, **facts):
    """Its first record with other facts, whole."""
    path = next(folder.glob("runs/*/*/*/record.json"))
    write_record(replace(read_record(path), **facts), path.parent)


def other_counts(folder):
    path = next(folder.glob("runs/*/*/*/record.json"))
    record = read_record(path)
    first = record.counts[0]
    changed(folder, counts=(replace(first, correct=first.correct - 1), *record.counts[1:]))


def other_code(folder):
    changed(folder, code={"methods/coop.py": "0" * 16})


def other_protocol(folder):
    path = next(folder.glob("runs/*/*/*/record.json"))
    scenario = read_record(path).scenario
    changed(folder, scenario=scenario | {"experiences": 5, "hash": "1" * 64})


def other_backbone(folder):
    path = next(folder.glob("runs/*/*/*/record.json"))
    changed(folder, backbone=replace(read_record(path).backbone, hash="other"))


def damaged(folder):
    path = next(folder.glob("runs/*/*/*/record.json"))
    path.write_text(path.read_text().replace("demo", "dema"))


def nothing(folder):
    shutil.rmtree(folder / "runs")
    os.unlink(folder / "records.csv")


@pytest.mark.parametrize(
    ("seed", "change", "told"),
    [
        (1, other_counts, "differs from the same run in"),
        (2, other_code, "other code of the method than"),
        (2, other_protocol, "is of another scenario than"),
        (2, other_backbone, "differ in backbone hash"),
        (2, damaged, "was changed since it was written"),
        (2, nothing, "no finished run"),
    ],
)
def test_unlike_or_damaged_results_are_refused_in_one_line_and_nothing_is_written(demo, tmp_path, seed, change, told):
    one = done(planned(demo, tmp_path / "one", seeds=[1]), tmp_path)
    two = done(planned(demo, tmp_path / "two", seeds=[seed]), tmp_path)
    change(two)
    before = bytes_below(tmp_path)

    status, said = called("merge", one, two, "-o", tmp_path / "merged")

    assert status == 2 and told in said and said.count("\n") == 1
    assert bytes_below(tmp_path) == before


def test_a_folder_that_holds_something_is_not_merged_into(demo, tmp_path):
    one = done(planned(demo, tmp_path / "one", seeds=[1]), tmp_path)

    status, said = called("merge", one, "-o", one)

    assert status == 2 and "is in the way; expected a new or an empty folder" in said


# --- devices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["cuda:", "cuda:x", "gpu", "cuda:01", "cpu:1"])
def test_a_device_that_is_none_is_refused(word):
    with pytest.raises(SystemExit) as end:
        main.main(["run", "demo", "--device", word])
    assert end.value.code == 2


def test_one_of_several_gpus_is_asked_for_by_its_number(monkeypatch):
    import torch

    from lamm_cl.towers.devices import device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    assert device("cuda:1") == "cuda:1"
    with pytest.raises(UserError, match="--device cuda:2: there are 2 here, cuda:0 to cuda:1"):
        device("cuda:2")
