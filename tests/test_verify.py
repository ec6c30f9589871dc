"""`lamm-cl verify`: every damaged byte of results is found and named, and a run can be done again."""

import json
import shutil

import pytest
import toy

from lamm_cl.cli import doors
from lamm_cl.errors import UserError
from lamm_cl.reports.derived import derived_files, write_tables
from lamm_cl.results.file import read_record
from lamm_cl.sweeping import verify
from lamm_cl.sweeping.execute import Settings, execute
from lamm_cl.sweeping.plan import plan

METHODS = ("coop", "lamm")
RUN = "toy/coop/shots4-seed1"
CHANGED = "{}: was changed since it was written (its sha256 is another)"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The results of two toy runs, as `lamm-cl run` leaves them."""
    folder = tmp_path_factory.mktemp("finished")
    runs = plan(toy.scenario(methods=METHODS), folder)
    assert execute(runs, settings(folder), lambda event: None, train=toy.train, publish=doors.publish) == []
    write_tables(folder / "toy")
    return folder


@pytest.fixture
def results(finished, tmp_path):
    shutil.copytree(finished / "toy", tmp_path / "toy")
    return tmp_path / "toy"


def settings(folder):
    return Settings(data_root=None, cache=folder / "cache", device="cpu", jobs=1)


def recomputed(results, name=RUN):
    return verify.recompute(verify.runs(results)[name], settings(results.parent), lambda event: None, toy.train)


def test_whole_results_have_no_problems(results):
    assert verify.problems(results, derived_files) == []
    assert list(verify.runs(results)) == ["toy/coop/shots4-seed1", "toy/lamm/shots4-seed1"]


def test_neither_the_order_of_methods_nor_the_cache_decides_anything(finished, tmp_path):
    runs = plan(toy.scenario(methods=METHODS), tmp_path / "reversed")[::-1]

    done = dict(train=toy.train, publish=doors.publish)
    assert execute(runs, settings(tmp_path), lambda event: None, **done) == []  # an empty cache, and then a warm one
    for name in verify.runs(finished / "toy"):
        path = finished / "toy/runs" / name / "record.json"
        assert read_record(tmp_path / "reversed/toy/runs" / name / "record.json").facts() == read_record(path).facts()


@pytest.mark.parametrize("method", METHODS)
def test_a_run_done_again_has_the_same_counts_and_tensors(results, method):
    assert recomputed(results, f"toy/{method}/shots4-seed1") == ""


def test_a_count_that_does_not_come_out_again_is_named(results):
    path = results / "runs" / RUN / "record.json"
    facts = json.loads(path.read_text())
    facts["counts"][0] |= {"correct": 0, "correct_per_class": [0, 0, 0, 0]}
    del facts["sha256"]
    path.write_text(json.dumps(facts))

    assert verify.problems(results, derived_files)[0] == f"{path}: has no sha256, so a change would not be noticed"
    assert "counts.own, trained 0, tested 1.correct: 0, now " in recomputed(results)


def test_every_flipped_byte_of_the_learned_tensors_is_found(results):
    path = results / "runs" / RUN / "learned.safetensors"
    whole = path.read_bytes()
    for at in range(0, len(whole), 197):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])

        assert verify.problems(results, derived_files) == [f"{path}: its bytes are not those that record.json was written with"]


def test_a_missing_file_of_a_run_is_found(results):
    (results / "runs" / RUN / "learned.safetensors").unlink()

    assert verify.problems(results, derived_files) == [f"{results / 'runs' / RUN}/learned.safetensors: No such file or directory"]


def test_a_flipped_byte_of_a_record_is_found_wherever_it_is(results):
    path = results / "runs" / RUN / "record.json"
    whole = path.read_bytes()
    for at in range(0, len(whole), 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])

        assert verify.problems(results, derived_files), (at, whole[at - 20 : at + 20])


@pytest.mark.parametrize("name", ["records.csv", *(f"tables/degradation{end}" for end in (".csv", "_std.csv", ".tex"))])
def test_what_does_not_follow_from_the_records_is_named(results, name):
    (results / name).write_bytes((results / name).read_bytes().replace(b"1", b"2", 1))

    assert verify.problems(results, derived_files) == [f"{results / name}: does not follow from the records"]


def test_a_record_in_another_runs_folder_is_found(results):
    (results / "runs" / RUN).rename(results / "runs" / "toy" / "coop" / "shots4-seed2")

    assert "is the run toy/coop/shots4-seed1, and lies elsewhere" in verify.problems(results, derived_files)[0]


@pytest.mark.parametrize(("part", "name"), [("dataset", "classes"), ("measured", "host"), ("measured", "seconds")])
def test_what_decides_no_number_is_sealed_too(results, part, name):
    path = results / "runs" / RUN / "record.json"
    facts = json.loads(path.read_text())
    facts[part][name] = {"classes": [*facts["dataset"]["classes"][::-1]], "host": "another", "seconds": {}}[name]
    path.write_text(json.dumps(facts))

    assert verify.problems(results, derived_files) == [CHANGED.format(path)] and recomputed(results) == CHANGED.format(path)


def test_a_record_may_be_spaced_and_ordered_otherwise(results):
    path = results / "runs" / RUN / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True, indent=4))

    assert verify.problems(results, derived_files) == []


def test_a_setting_changed_after_the_run_is_found(results):
    path = results / "runs" / RUN / "record.json"
    path.write_text(path.read_text().replace('"lr": 0.002', '"lr": 0.02'))

    assert verify.problems(results, derived_files) == [CHANGED.format(path)]
    facts = json.loads(path.read_text())
    del facts["sha256"]
    path.write_text(json.dumps(facts))
    assert verify.problems(results, derived_files)[1:] == [f"{path}: card: its hash does not follow from it"]


def test_a_run_that_is_not_there_is_told_with_the_nearest_name(results):
    with pytest.raises(UserError, match="no finished run 'toy/cop/shots4-seed1'; did you mean 'toy/coop/shots4-seed1'?"):
        verify.choose(results, ["toy/cop/shots4-seed1"], 1)


def test_results_without_runs_cannot_be_verified(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        verify.problems(tmp_path, derived_files)


def test_of_random_runs_those_that_train_are_done_again_first(tmp_path):
    runs = plan(toy.scenario(methods=["zero-shot", "simplecil", "coop"], seeds=[1, 2]), tmp_path)
    runs = [run for run in runs if not (run.method == "coop" and run.seed == 2)]
    assert execute(runs, settings(tmp_path), lambda event: None, train=toy.train, publish=doors.publish) == []

    for _ in range(5):
        assert verify.choose(tmp_path / "toy", [], 1) == [RUN]
    assert set(verify.choose(tmp_path / "toy", [], 9)) == set(verify.runs(tmp_path / "toy"))
    assert verify.choose(tmp_path / "toy", [], 0) == []
