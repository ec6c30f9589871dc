"""Training curves: what they say, that they change nothing, and that a killed run continues them without a seam."""

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import test_house
import torch
import toy

from lamm_cl.config.schema import Training
from lamm_cl.errors import UserError
from lamm_cl.learner.model import Learner
from lamm_cl.training import keeper, logs, loop
from lamm_cl.training.optimizing import learning_rate
from lamm_cl.training.state import State

EPOCHS = toy.SMALL["epochs"]
ALL = ("csv", "tensorboard", "wandb")


def journal(folder: Path) -> dict[tuple[int, int, str], float]:
    """(experience, epoch, name) -> value, each once."""
    with open(folder / "logs/training.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(int(row["experience"]), int(row["epoch"]), row["name"]): float(row["value"]) for row in rows}
    assert len(found) == len(rows)
    return found


def by_step(folder: Path) -> dict[str, dict[int, float]]:
    """name -> step -> value, of a journal."""
    curves: dict[str, dict[int, float]] = {}
    for (experience, epoch, name), value in journal(folder).items():
        curves.setdefault(name, {})[logs.step(experience, epoch, [EPOCHS] * 2)] = value
    return curves


def tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """name -> (step, value)s, as TensorBoard reads the event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "logs/tensorboard"))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def wandb(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """name -> (step, value)s of the one offline run: W&B's records lie in a file of LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    [path] = (folder / "logs/wandb").glob("offline-run-*/*.wandb")
    content, at, curves = path.read_bytes(), 7, {}
    assert len(content) < 2**15  # one block: no record is split
    while at < len(content):
        size = int.from_bytes(content[at + 4 : at + 6], "little")
        history = Record.FromString(content[at + 7 : at + 7 + size]).history
        for item in history.item:
            name = item.key or "/".join(item.nested_key)
            if not name.startswith("_"):
                curves.setdefault(name, []).append((history.step.num, json.loads(item.value_json)))
        at += 7 + size
    return curves


# --- what they say ---------------------------------------------------------------------------------------------------


def test_every_epoch_has_its_loss_terms_their_sum_and_the_learning_rate(tmp_path, monkeypatch):
    toy.run(tmp_path, "lamm", logs=("csv",))

    curves = by_step(tmp_path / "run")

    terms = [name for name in curves if name.startswith("loss/") and name != "loss/total"]
    assert "loss/cross_entropy" in terms and len(terms) > 1
    assert all(sorted(curves[name]) == [1, 2, 3, 4] for name in [*terms, "learning_rate"])
    for at, total in curves["loss/total"].items():
        assert total == pytest.approx(sum(curves[name][at] for name in terms))
    training = Training(**toy.card_for(toy.scenario(), "lamm").training.model_dump())
    assert list(curves["learning_rate"].values()) == [learning_rate(training, epoch) for epoch in (0, 1, 0, 1)]


def test_a_loss_is_the_mean_over_the_images_of_the_epoch(tmp_path, monkeypatch):
    losses = []  # (experience, images, cross entropy) of every step
    loss = Learner.loss

    def watched(model, x, targets):
        output, terms = loss(model, x, targets)
        losses.append((model.learned, len(targets), terms["cross_entropy"].item()))
        return output, terms

    monkeypatch.setattr(Learner, "loss", watched)
    toy.run(tmp_path, "coop", logs=("csv",), shots=[5])  # 20 and 15 images in batches of 8: the last is smaller

    for experience, images in ((1, 20), (2, 15)):
        steps = [step[1:] for step in losses if step[0] == experience]
        for epoch, part in enumerate((steps[: len(steps) // 2], steps[len(steps) // 2 :]), 1):
            assert sum(n for n, _ in part) == images
            expected = sum(n * value for n, value in part) / images
            assert journal(tmp_path / "run")[experience, epoch, "loss/cross_entropy"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", ["zero-shot", "coop"])
def test_accuracies_are_those_of_the_record_in_percent(tmp_path, monkeypatch, method):
    record, _ = toy.run(tmp_path, method, logs=("csv",))

    found = {key: value for key, value in journal(tmp_path / "run").items() if key[2].startswith("accuracy_")}

    epochs = EPOCHS if method == "coop" else 0
    assert found == {
        (c.trained, epochs if c.trained else 0, f"accuracy_{c.label_space}/experience_{c.tested}"): 100 * c.correct / c.total
        for c in record.counts
        if c.correct is not None
    }


def test_a_method_that_does_not_train_has_a_step_per_experience():
    assert [logs.step(experience, 0, [0, 0]) for experience in (0, 1, 2)] == [0, 1, 2]
    assert [logs.step(experience, epoch, [5, 5]) for experience, epoch in ((0, 0), (1, 1), (1, 5), (2, 1))] == [0, 1, 5, 6]
    assert [logs.step(experience, epoch, [5, 2, 2]) for experience, epoch in ((1, 5), (2, 2), (3, 1))] == [5, 7, 8]


@pytest.mark.parametrize(("name", "read"), [("tensorboard", tensorboard), ("wandb", wandb)])
def test_the_other_formats_say_what_the_journal_says(tmp_path, monkeypatch, name, read):
    monkeypatch.setenv("WANDB_MODE", "online")  # is not asked: a run needs no account
    toy.run(tmp_path, "coop", logs=(name,))

    expected = by_step(tmp_path / "run")
    found = read(tmp_path / "run")

    assert set(found) == set(expected)
    for curve, points in found.items():
        assert dict(points) == pytest.approx(expected[curve], rel=1e-6) and len(points) == len(expected[curve])


# --- that they change nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["zero-shot", "coop", "maple+lamm"])
def test_records_and_learned_tensors_are_the_same_with_and_without_logs(tmp_path, monkeypatch, method):
    without, plain = toy.run(tmp_path, method, folder="without")
    record, tensors = toy.run(tmp_path, method, folder="with", logs=ALL)

    assert record.facts() == without.facts()
    assert set(tensors) == set(plain) and all(torch.equal(tensors[name], plain[name]) for name in plain)
    assert not (tmp_path / "without/logs").exists()


def test_without_logs_the_loop_has_no_plugin_of_theirs(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise AssertionError("made unasked")

    monkeypatch.setattr(logs, "Curves", refused)
    toy.run(tmp_path, "coop")
    with pytest.raises(AssertionError, match="made unasked"):
        toy.run(tmp_path, "coop", folder="other", logs=("csv",))


def test_tensorboard_and_wandb_are_imported_by_the_logs_alone_and_there_only_on_demand():
    assert test_house.importers("wandb") == test_house.importers("torch.utils.tensorboard") == {"training/logs.py"}
    heavy = {"torch", "avalanche", "tensorboard", "wandb"}
    code = "from lamm_cl.extras import check_logs; check_logs(('wandb', 'tensorboard'))"
    assert not test_house.modules_after(code) & heavy


def test_a_missing_package_is_one_line_before_anything_is_written(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find_spec(name))

    with pytest.raises(UserError, match="^--log wandb: needs the package wandb; pip install wandb$"):
        toy.run(tmp_path, "coop", logs=("csv", "wandb"))

    assert not (tmp_path / "run").exists()


def test_a_folder_called_wandb_is_not_the_package(tmp_path):
    """`wandb` makes such a folder where it is used."""
    (tmp_path / "wandb").mkdir()
    code = f"import sys; sys.path = [{str(tmp_path)!r}, {str(test_house.PACKAGE.parent)!r}, *sys.path[1:]]\n"
    code += "sys.path = [p for p in sys.path if 'site-packages' not in p]\n"
    code += "from lamm_cl.extras import check_logs; check_logs(['wandb'])"

    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert process.stderr.splitlines()[-1].endswith("--log wandb: needs the package wandb; pip install wandb")


# --- that a killed run continues them --------------------------------------------------------------------------------


MOMENTS = [(at, moment) for at in ("write_state", "set_rate") for moment in range(1, 2 * EPOCHS + 1)]


@pytest.mark.parametrize(("at", "moment"), [*MOMENTS, ("after_eval", 1), ("after_eval", 2), ("after_eval", 3)])
def test_after_a_kill_the_curves_go_on_as_if_nothing_had_happened(tmp_path, at, moment):
    """Killed after a state is saved, after an epoch whose state is not saved, and after an evaluation's rows are written."""
    toy.run(tmp_path, "coop", folder="whole", logs=("csv", "tensorboard"))
    with toy.killed(moment, {"after_eval": logs.Curves, "write_state": keeper, "set_rate": loop}[at], at):
        toy.run(tmp_path, "coop", folder="cut", logs=("csv", "tensorboard"), save_every=0)
    with open(tmp_path / "cut/logs/training.csv", "a") as file:
        file.write("2,2,loss/to")  # a line that the kill cut

    toy.run(tmp_path, "coop", folder="cut", logs=("csv", "tensorboard"))

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert (cut / "logs/training.csv").read_bytes() == (whole / "logs/training.csv").read_bytes()
    assert tensorboard(cut) == tensorboard(whole)


def test_an_interrupt_prints_no_traceback_of_wandbs(tmp_path, capfd):
    with toy.killed(1):
        toy.run(tmp_path, "coop", logs=("wandb",), save_every=0)

    assert "Traceback" not in "".join(capfd.readouterr())


def test_after_a_kill_there_is_one_run_of_wandb_with_all_points_and_the_same_id(tmp_path):
    with toy.killed(3):
        toy.run(tmp_path, "coop", logs=("wandb",), save_every=0)
    [before] = (tmp_path / "run/logs/wandb").glob("offline-run-*/*.wandb")

    toy.run(tmp_path, "coop", logs=("wandb",))

    [after] = (tmp_path / "run/logs/wandb").glob("offline-run-*/*.wandb")
    assert after.name == before.name
    assert {name: [at for at, _ in points] for name, points in wandb(tmp_path / "run").items()} == {
        name: sorted(points) for name, points in by_step(tmp_path / "run").items()
    }


def test_rows_that_a_power_failure_spoiled_are_dropped(tmp_path):
    path = tmp_path / "training.csv"
    path.write_bytes(b"experience,epoch,name,value\n1,1,loss/total,0.5\n\x00\x00\x00\n1,2,loss/total\n1,2,loss/total,0.25\n")

    rows = list(logs.rows_until(path, State(experience=0, epochs=2)))

    assert rows == [(1, 1, "loss/total", 0.5), (1, 2, "loss/total", 0.25)]
