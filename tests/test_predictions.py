"""What is predicted for each test image, on request: beside a record that says nothing of it."""

import gzip
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import toy

from lamm_cl.errors import UserError
from lamm_cl.reports.confusion import by_experience, plot_confusion
from lamm_cl.reports.page.page import page
from lamm_cl.results.file import read_record
from lamm_cl.results.predictions import PREDICTIONS, confusion
from lamm_cl.results.runs import Unfit
from lamm_cl.sweeping.execute import Settings, outcome
from lamm_cl.sweeping.plan import plan
from lamm_cl.training.run import complete


def done(tmp_path, method="simplecil", folder="run", predictions=True, save_every=30.0):
    """The folder of a run that was done, with predictions or without."""
    run = toy.planned(tmp_path / "results/toy/runs/toy" / method / folder, method)
    complete(toy.prepared(run, tmp_path / "cache"), lambda at: None, keep_predictions=predictions, save_every=save_every)
    return run.folder


def frame_of(folder):
    return pd.read_csv(folder / PREDICTIONS, dtype={"own": "Int64", "joint": "Int64", "all": "Int64"})


def test_the_predictions_give_the_counts_of_the_record_and_undefined_ones_are_empty(tmp_path):
    folder = done(tmp_path)
    record, frame = read_record(folder / "record.json"), frame_of(folder)

    assert list(frame) == ["trained", "tested", "sample", "file", "class", "own", "joint", "all"]
    assert len(frame) == 3 * 7 * 9  # after 0, 1 and 2 experiences, 9 images of 7 classes
    for count in record.counts:
        at = frame[(frame.trained == count.trained) & (frame.tested == count.tested)]
        if count.correct is None:
            assert at[count.label_space].isna().all()
        else:
            assert (at[count.label_space] == at["class"]).sum() == count.correct
    assert sorted(frame[frame.trained == 2]["sample"]) == list(range(63))


def test_a_record_is_the_same_with_and_without_them(tmp_path):
    one, other = (read_record(done(tmp_path, folder=name, predictions=given) / "record.json")
                  for name, given in (("with", True), ("without", False)))  # fmt: skip

    assert one.facts() == other.facts()
    assert not (tmp_path / "results/toy/runs/toy/simplecil/without" / PREDICTIONS).exists()


@pytest.mark.parametrize("moment", [1, 3])
def test_a_run_that_was_cut_off_has_the_same_predictions_to_the_byte(tmp_path, moment):
    whole = done(tmp_path, "coop", "whole")

    with toy.killed(moment):
        done(tmp_path, "coop", "cut", save_every=0)
    cut = done(tmp_path, "coop", "cut")

    assert (cut / PREDICTIONS).read_bytes() == (whole / PREDICTIONS).read_bytes()
    assert not (cut / "state").exists()


def test_a_run_that_was_begun_without_them_starts_again_for_them(tmp_path):
    whole = done(tmp_path, folder="whole")

    with toy.killed(1):
        done(tmp_path, folder="cut", predictions=False, save_every=0)
    cut = done(tmp_path, folder="cut")

    assert (cut / PREDICTIONS).read_bytes() == (whole / PREDICTIONS).read_bytes()


def test_a_finished_run_without_them_is_done_again_for_them_and_keeps_its_record(tmp_path):
    folder = done(tmp_path, predictions=False)
    run = toy.planned(folder, "simplecil")
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    settings = Settings(None, tmp_path / "cache", "cpu", 1, predictions=True)

    assert outcome(run, settings, toy.train, lambda event: None).kind == "finished"

    assert {name: (folder / name).read_bytes() for name in kept} == kept
    assert {path.name for path in folder.iterdir()} == {*kept, PREDICTIONS}
    written = (folder / PREDICTIONS).stat().st_mtime_ns
    assert outcome(run, settings, toy.train, lambda event: None).kind == "finished"  # nothing to do
    assert (folder / PREDICTIONS).stat().st_mtime_ns == written


def test_predictions_of_other_counts_than_the_record_s_are_not_written(tmp_path):
    folder = done(tmp_path, predictions=False)
    other = done(tmp_path, method="zero-shot", predictions=False)
    (folder / "record.json").write_bytes((other / "record.json").read_bytes())

    with pytest.raises(UserError, match="done again for its predictions, it gave other counts or tensors"):
        done(tmp_path)
    assert not (folder / PREDICTIONS).exists()


def test_a_confusion_matrix_counts_every_test_image_once(tmp_path):
    folder = done(tmp_path)
    record, frame = read_record(folder / "record.json"), frame_of(folder)

    for space in ("own", "joint"):
        counts = confusion(record, folder / PREDICTIONS, space)
        last = frame[frame.trained == 2]
        assert counts.sum(axis=1).tolist() == [9] * 7
        assert counts[2, 5] == ((last["class"] == 2) & (last[space] == 5)).sum()
    assert (confusion(record, folder / PREDICTIONS, "own")[:4, 4:] == 0).all()  # only classes of an experience compete


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"trained", lambda data: gzip.compress(b"a,b\n1,2\n")])
def test_a_damaged_file_of_predictions_is_told_in_one_line(tmp_path, damage):
    folder = done(tmp_path, "zero-shot")
    (folder / PREDICTIONS).write_bytes(damage((folder / PREDICTIONS).read_bytes()))

    with pytest.raises(UserError, match="no whole file of predictions"):
        confusion(read_record(folder / "record.json"), folder / PREDICTIONS, "joint")


def test_predictions_of_another_run_are_told(tmp_path):
    folder, other = done(tmp_path), done(tmp_path, "zero-shot")
    with pytest.raises(UserError, match="does not belong to the record beside it"):
        confusion(read_record(folder / "record.json"), other / PREDICTIONS, "joint")


def test_confusion_matrices_are_drawn_and_in_the_page_where_runs_kept_predictions(tmp_path):
    settings = Settings(None, tmp_path / "cache", "cpu", 1, predictions=True)
    runs = plan(toy.scenario(methods=["simplecil", "zero-shot"]), tmp_path)
    with_them, without = ([outcome(run, each, toy.train, lambda event: None) for run in part]
                          for part, each in ((runs[:1], settings), (runs[1:], replace(settings, predictions=False))))  # fmt: skip
    assert {event.kind for event in (*with_them, *without)} == {"finished"}
    folder = tmp_path / "toy"
    record = read_record(runs[0].folder / "record.json")
    counts = confusion(record, runs[0].folder / PREDICTIONS, "joint")

    assert len(plot_confusion([folder], tmp_path / "confusion")) == 3
    text = page([folder])
    (group,) = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])["groups"]
    at = [method["key"] for method in group["methods"]].index("simplecil")
    (shown,) = group["confusion"]
    cells = np.zeros((7, 7), dtype=int)
    for c, p, n in shown["counts"]["joint"][at]:
        cells[c, p] = n
    assert (cells == counts).all() and shown["counts"]["joint"][1 - at] is None
    assert shown["sizes"] == [4, 3] and tuple(shown["classes"]) == record.dataset.classes


def test_results_without_predictions_say_how_to_keep_them(tmp_path):
    done(tmp_path, predictions=False, folder="shots4-seed1")

    with pytest.raises(Unfit, match="lamm-cl run with --predictions keeps them"):
        plot_confusion([tmp_path / "results/toy"], tmp_path / "confusion")


def test_the_confusion_of_experiences_sums_that_of_their_classes():
    counts = np.arange(25).reshape(5, 5)

    assert by_experience(counts, [2, 3]).tolist() == [[counts[:2, :2].sum(), counts[:2, 2:].sum()],
                                                      [counts[2:, :2].sum(), counts[2:, 2:].sum()]]  # fmt: skip
