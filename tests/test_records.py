"""Records: what is written can be read back, and what is broken is named."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from fake_records import record, write

from lamm_cl.errors import UserError
from lamm_cl.results.csv import write_records_csv
from lamm_cl.results.file import read_record, write_record
from lamm_cl.results.runs import records_in, runs_in

OWN = [[50, 40], [90, 35], [70, 80]]
WEIRD = '=1+1, "quoted" & <b>_x\n' + "long " * 12  # over 80 characters


def changed(path, change):
    """The record file after `change(content)`."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_a_record_read_back_equals_the_one_written(tmp_path):
    one = record(OWN, dataset=WEIRD, shots="full")

    assert read_record(write_record(one, tmp_path)) == one


def test_the_same_record_gives_the_same_bytes_with_one_count_a_line(tmp_path):
    first, second = (write_record(record(OWN), tmp_path / name).read_bytes() for name in "ab")

    assert first == second
    assert sum(line.lstrip().startswith(b'{"trained"') for line in first.splitlines()) == 12


def test_a_record_that_was_changed_is_refused_and_one_without_a_seal_is_taken_as_it_is(tmp_path):
    path = write_record(record(OWN), tmp_path)
    facts = json.loads(path.read_text())
    facts["measured"]["host"] = "another"
    path.write_text(json.dumps(facts))
    with pytest.raises(UserError, match="record.json: was changed since it was written"):
        read_record(path)
    del facts["sha256"]
    path.write_text(json.dumps(facts))

    assert read_record(path).measured.host == "another"


def test_work_and_load_are_measured_and_a_record_without_them_is_read(tmp_path):
    one = record([[5, 5], [9, 5], [7, 8]])
    counted = replace(one, measured=replace(one.measured, work={"multiply-adds": 2**60}, load=0.5))

    assert read_record(write_record(counted, tmp_path / "new")) == counted
    assert counted.facts() == one.facts()
    content = json.loads(write_record(one, tmp_path / "old").read_text())
    del content["measured"]["work"], content["measured"]["load"], content["sha256"]
    (tmp_path / "old/record.json").write_text(json.dumps(content))
    assert read_record(tmp_path / "old/record.json") == one


@pytest.mark.parametrize(
    ("measured", "complaint"),
    [
        ({"work": {"multiply-add": 1}}, "measured.work: no key 'multiply-add'; did you mean 'multiply-adds'"),
        ({"work": {"prompts forward": -1}}, "measured.work.prompts forward: expected a whole number, found -1"),
        ({"work": {"prompts forward": 1.5}}, "measured.work.prompts forward: expected a whole number, found 1.5"),
        ({"load": -0.5}, "measured.load: expected running processes a core, found -0.5"),
    ],
)
def test_work_and_load_that_cannot_be_are_refused(tmp_path, measured, complaint):
    one = record([[5, 5], [9, 5], [7, 8]])
    path = write_record(replace(one, measured=replace(one.measured, **measured)), tmp_path)

    with pytest.raises(UserError, match=complaint):
        read_record(path)


def test_facts_are_all_but_what_was_measured():
    one = record(OWN)
    elsewhere = replace(one, measured=replace(one.measured, host="another", seconds={"training": 99.0}))
    other = record([[50, 40], [90, 35], [70, 81]])

    assert one != elsewhere and one.facts() == elsewhere.facts()
    assert one.facts() != other.facts()


def test_accuracies_are_percentages_with_nan_where_joint_is_undefined():
    one = record(OWN, [[0, 0], [45, 0], [35, 40]], total=(100, 200))

    assert one.accuracy("own").tolist() == [[50, 20], [90, 17.5], [70, 40]]
    assert np.isnan(one.accuracy("joint")).tolist() == [[True, True], [False, True], [False, False]]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c.pop("counts"), "key 'counts' is missing"),
        (lambda c: c.update(format=2), "format: expected 1"),
        (lambda c: c.update(cuonts=[]), "no key 'cuonts'; did you mean 'counts'?"),
        (lambda c: c["run"].pop("seed"), "run: key 'seed' is missing"),
        (lambda c: c["run"].update(seed="1"), 'run.seed: expected a whole number, found "1"'),
        (lambda c: c["run"].update(seed=True), "run.seed: expected a whole number, found true"),
        (lambda c: c["run"].update(seed=10**40), "run.seed: expected a number of at most 2^53, found 1000"),
        (lambda c: c["dataset"].update(order=[10**40, 1]), "dataset.order[0]: expected a number of at most 2^53"),
        (lambda c: c["measured"].update(seconds={"train": None}), "measured.seconds.train: expected seconds, found null"),
        (lambda c: c["model"].update(trainable=[]), "model.trainable: expected one for each of the 2 experiences"),
        (lambda c: c["run"].update(shots="all"), "run.shots: expected a whole number or 'full'"),
        (lambda c: c["counts"].pop(), "counts: expected one for each trained 0..2 and tested 1..2"),
        (lambda c: c["counts"].append(c["counts"][0]), "counts[12]: is there twice"),
        (lambda c: c["counts"][3].update(correct=101), "counts[3]: correct 101 of 100"),
        (lambda c: c["counts"][3].update(correct=None), "counts[3]: correct: expected null exactly where"),
        (lambda c: c["counts"][3].update(total=99), "counts[3]: total 99"),
        (lambda c: c["counts"][3].update(tested=3), "counts[3]: trained 1, tested 3: there are 2 experiences"),
        (lambda c: c["counts"][3].update(label_space="joined"), "no 'joined'; did you mean 'joint'?"),
        (lambda c: c["counts"][3].update(correct_per_class=[1, 2]), "correct_per_class adds up to 3, correct is 35"),
        (lambda c: c["dataset"].update(classes=["one"]), "dataset: classes, experiences and test_images"),
        (
            lambda c: c["dataset"].update(chosen=[[1], ["x"]]),
            'dataset.chosen[1][0]: expected a whole number, found "x"',
        ),
    ],
)
def test_a_wrong_record_is_refused_in_one_line_with_file_and_key(tmp_path, change, complaint):
    path = changed(write_record(record(OWN), tmp_path), change)

    with pytest.raises(UserError) as error:
        read_record(path)

    assert str(error.value).startswith(f"{path}: ") and complaint in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", "null", '{"format": 1', "\udcff"])
def test_a_file_that_is_no_record_is_refused(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_bytes(content.encode(errors="surrogateescape"))

    with pytest.raises(UserError, match=r"record.json: "):
        read_record(path)


def test_records_are_sorted_with_shots_as_numbers_and_full_last(tmp_path):
    shots = [16, "full", 2]
    write(tmp_path, [record(OWN, shots=k, seed=s, dataset=d) for d in "ba" for s in (2, 1) for k in shots])

    found = [(r.run.dataset, r.run.shots, r.run.seed) for r in records_in(tmp_path)]

    assert found == [(d, k, s) for d in "ab" for k in (2, 16, "full") for s in (1, 2)]


def test_a_results_folder_that_does_not_exist_is_named_with_the_nearest_that_does(tmp_path):
    (tmp_path / "demo").mkdir()

    with pytest.raises(UserError, match="no such results folder; did you mean 'demo'"):
        records_in(tmp_path / "deom")


def test_an_unfinished_run_is_no_record_and_a_folder_without_any_is_refused(tmp_path):
    (tmp_path / "runs/species/coop/shots16-seed1/state").mkdir(parents=True)

    assert records_in(tmp_path) == []
    with pytest.raises(UserError, match="no finished run"):
        runs_in(tmp_path)


def test_the_same_run_twice_or_two_scenarios_in_one_folder_are_refused(tmp_path):
    write(tmp_path / "twice", [record(OWN), record(OWN)])
    write(tmp_path / "mixed", [record(OWN), record(OWN, name="other", seed=2)])

    with pytest.raises(UserError, match="twice"):
        records_in(tmp_path / "twice")
    with pytest.raises(UserError, match=r"several scenarios \(demo, other\)"):
        records_in(tmp_path / "mixed")


def test_runs_of_different_backbones_never_meet_in_one_table(tmp_path):
    one, two = record(OWN), record(OWN, seed=2)
    write(tmp_path, [one, replace(two, backbone=replace(two.backbone, hash="another"))])

    with pytest.raises(UserError, match="differ in backbone hash"):
        runs_in(tmp_path)


def test_records_csv_holds_every_count_and_survives_any_name(tmp_path):
    write(tmp_path, [record(OWN, dataset=WEIRD, method='a,"b"', total=(100, 300), shots="full", name="@demo")])

    content = write_records_csv(tmp_path).read_text()
    found = list(csv.DictReader(content.splitlines(keepends=True)))

    columns = "scenario,dataset,method,shots,seed,label_space,trained,tested,correct,total,accuracy"
    assert content.splitlines()[0] == columns
    assert len(found) == 12
    assert {(r["scenario"], r["dataset"], r["method"]) for r in found} == {("'@demo", "'" + WEIRD, 'a,"b"')}
    own = [r for r in found if r["label_space"] == "own"]
    assert [int(r["correct"]) for r in own] == [50, 40, 90, 35, 70, 80]
    assert [r["total"] for r in own] == ["100", "300"] * 3
    assert own[1]["accuracy"] == "13.333333"
    undefined = [(r["trained"], r["tested"], r["total"]) for r in found if r["correct"] == r["accuracy"] == ""]
    assert undefined == [("0", "1", "100"), ("0", "2", "300"), ("1", "2", "300")]


def test_records_csv_is_rebuilt_from_the_records_whatever_it_held(tmp_path):
    write(tmp_path, [record(OWN)])
    before = write_records_csv(tmp_path).read_bytes()
    (tmp_path / "records.csv").write_text("edited by hand")

    assert write_records_csv(tmp_path).read_bytes() == before
