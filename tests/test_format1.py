"""Results of the first format, tests/format1: every later version reads, skips, tabulates, verifies and continues them."""

import hashlib
import json
import shutil
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lamm_cl.cli import doors, main
from lamm_cl.config.cards import load_scenario
from lamm_cl.results.file import read_record
from lamm_cl.results.runs import records_in
from lamm_cl.sweeping.execute import Settings, execute
from lamm_cl.sweeping.plan import plan, unfinished
from lamm_cl.sweeping.publish import tidy

FORMAT1 = Path(__file__).parent / "format1"
SCENARIO = FORMAT1 / "format1.yaml"
EXPECTED = FORMAT1 / "expected"
UNFINISHED = "runs/digits/coop+lamm/shots2-seed2"
COUNT = ("trained", "tested", "label_space", "correct", "total", "correct_per_class")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def results(tmp_path):
    """A copy of the results folder of the scenario."""
    return Path(shutil.copytree(FORMAT1 / "results", tmp_path / "results")) / "format1"


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def executed(runs, cache: Path, tell) -> list:
    """-> the failures."""
    settings = Settings(data_root=None, cache=cache, device="cpu", jobs=1)
    return execute(runs, settings, tell, train=doors.train, publish=doors.publish)


def written(path: Path) -> dict:
    """What stands in a record.json, without the code that reads it."""
    return json.loads(path.read_text())


def told(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """The identity and facts of a state, and its tensors."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["state"]), {name: file.get_tensor(name) for name in file.keys()}


# --- finished runs -----------------------------------------------------------------------------------------------------


def test_the_records_are_read_with_all_they_say(results):
    records = records_in(results)

    assert [(r.run.method, r.run.seed) for r in records] == [("coop+lamm", 1), ("zero-shot", 1), ("zero-shot", 2)]
    for record in records:
        old = written(results / f"runs/digits/{record.run.method}/shots2-seed{record.run.seed}/record.json")
        now = json.loads(json.dumps(asdict(record)))
        for part in ("run", "backbone", "dataset", "model", "measured", "files", "scenario", "card"):
            assert {key: now[part][key] for key in old[part]} == old[part], part
        assert [{key: count[key] for key in COUNT} for count in now["counts"]] == old["counts"]


def test_finished_runs_are_skipped_and_their_bytes_stay(results, cache, capsys):
    before = bytes_below(results)

    words = ["--results", str(results.parent), "--cache", str(cache), "--device", "cpu", "--method", "zero-shot"]
    assert main.main(["run", str(SCENARIO), *words]) == 0

    after = bytes_below(results)
    assert "nothing to do: all 2 runs are finished" in capsys.readouterr().out
    assert {name: after.get(name) for name in before} == before
    assert not any(name.startswith("runs/") for name in after.keys() - before.keys())


def test_the_unfinished_run_is_the_only_one_left_to_do(results):
    runs = plan(load_scenario(SCENARIO), results.parent)

    assert [str(run.folder.relative_to(results)) for run in unfinished(runs)] == [UNFINISHED]


def test_tables_and_records_csv_are_the_committed_ones(results, capsys):
    before = bytes_below(results)
    derived = [name for name in before if name.startswith("tables/") or name == "records.csv"]
    assert len(derived) == 16
    for name in derived:
        (results / name).unlink()

    assert main.main(["table", "--write", str(results)]) == 0
    tidy([run for run in plan(load_scenario(SCENARIO), results.parent) if run.seed == 1], doors.derived)

    after = bytes_below(results)
    assert {name: after.get(name) for name in before} == before
    assert "52.40 (1/2 seeds)" in capsys.readouterr().out


def test_verify_accepts_them(results, cache, capsys):
    assert main.main(["verify", str(results), "--recompute", "0"]) == 0
    assert "3 runs: every file is whole, tables follow from the records" in capsys.readouterr().out


def test_verify_repeats_a_run_of_theirs_and_finds_the_same_facts(results, cache, capsys):
    """Of zero-shot, which learns no tensors whose last bits another processor may change."""
    words = ["--run", "digits/zero-shot/shots2-seed1", "--cache", str(cache), "--device", "cpu"]

    assert main.main(["verify", str(results), *words]) == 0

    assert "the same counts and the same learned tensors" in capsys.readouterr().out


# --- the unfinished run ------------------------------------------------------------------------------------------------


def continued(results: Path, cache: Path) -> tuple[dict, dict[str, torch.Tensor], list]:
    """Let the unfinished run go on -> its record, its learned tensors, and the events on the way."""
    made_with = told(results / UNFINISHED / "state/state.safetensors")[0]["identity"]["torch"]
    if made_with != torch.__version__:
        pytest.skip(f"the state was saved by torch {made_with}, and by design torch {torch.__version__} does not go on from it")
    runs = plan(load_scenario(SCENARIO), results.parent, methods=["coop+lamm"], seeds=[2])
    events: list = []
    assert executed(runs, cache, events.append) == []
    folder = results / UNFINISHED
    assert not (folder / "state").exists()
    read_record(folder / "record.json")
    return written(folder / "record.json"), load_file(folder / "learned.safetensors"), events


def alter(path: Path, name: str) -> None:
    """Another value in one tensor of a state, sealed again by the rule of format 1."""
    state, tensors = told(path)
    tensors[name] += 0.1
    text = json.dumps(state, sort_keys=True)
    total = hashlib.sha256(text.encode())
    for key, tensor in sorted(tensors.items()):
        total.update(key.encode() + tensor.numpy().tobytes())
    save_file(tensors, path, {"state": text, "sha256": total.hexdigest()})


def apart(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def test_the_unfinished_run_goes_on_to_the_counts_and_tensors_of_an_uninterrupted_one(results, cache):
    record, learned, events = continued(results, cache)

    whole = written(EXPECTED / "record.json")
    assert [{key: count[key] for key in COUNT} for count in record["counts"]] == whole["counts"]
    for part in ("run", "dataset", "backbone", "model"):
        assert {key: record[part][key] for key in whole[part]} == whole[part], part
    assert [record[part]["hash"] for part in ("scenario", "card")] == [whole[part]["hash"] for part in ("scenario", "card")]
    assert apart(learned, load_file(EXPECTED / "learned.safetensors")) <= 1e-5
    told = [event.text for event in events if event.kind == "progress"]  # a place is told again before a write
    places = [text for text, _ in groupby(told)]  # nothing before them was done again
    assert places == ["experience 2/2, epoch 3/4, train", "experience 2/2, epoch 4/4, train", "experience 2/2, test"]


@pytest.mark.parametrize("name", ["learned/context.v", "learned/labels.z.parts.0", "momentum/labels.z.parts.1"])
def test_every_tensor_of_the_state_decides_how_it_ends(results, cache, name):
    alter(results / UNFINISHED / "state/state.safetensors", name)

    _, learned, _ = continued(results, cache)

    assert apart(learned, load_file(EXPECTED / "learned.safetensors")) > 1e-4


def test_a_damaged_state_is_begun_anew_and_ends_the_same(results, cache):
    path = results / UNFINISHED / "state/state.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\1\2\3")

    runs = plan(load_scenario(SCENARIO), results.parent, methods=["coop+lamm"], seeds=[2])
    assert executed(runs, cache, lambda event: None) == []

    assert apart(load_file(results / UNFINISHED / "learned.safetensors"), load_file(EXPECTED / "learned.safetensors")) <= 1e-5
