"""A finished run is skipped only if it would come out the same; what differs is told before anything is trained."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from layouts import text
from test_content import bitmap, pets

from lamm_cl.cli import doors
from lamm_cl.config.schema import Scenario
from lamm_cl.data import catalogue
from lamm_cl.data.hashes import of_file
from lamm_cl.errors import UserError
from lamm_cl.results.file import read_record, write_record
from lamm_cl.results.record import DatasetFacts
from lamm_cl.results.runs import runs_of
from lamm_cl.sweeping import code, same, verify
from lamm_cl.sweeping.execute import Settings, execute
from lamm_cl.sweeping.plan import made, plan

CLASSES = ("ant", "bee", "cat", "dog")


def scenario(data: Path | str, **changes) -> Scenario:
    facts = {"name": "mine", "version": 1, "backbone": {"architecture": "lamm-cl-mini", "weights": "embedded"}, "shots": 1,
             "datasets": [str(data)], "experiences": "halves", "seeds": [1, 2], "methods": ["zero-shot"]}  # fmt: skip
    return Scenario(**facts | changes)


def settings(folder: Path) -> Settings:
    return Settings(data_root=None, cache=folder / "cache", device="cpu", jobs=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One's own data, named by a path, and the results of seed 1, as `lamm-cl run` leaves them."""
    home = tmp_path_factory.mktemp("finished")
    pets(home / "data" / "pets", CLASSES, images=5)
    [run] = plan(scenario(home / "data" / "pets"), home / "results", seeds=[1])
    assert execute([run], settings(home), lambda event: None, train=doors.train, publish=doors.publish) == []
    return home


@pytest.fixture
def home(finished, tmp_path):
    """A copy of both, at another place."""
    for part in ("data", "results"):
        shutil.copytree(finished / part, tmp_path / part)
    return tmp_path


def checked(home: Path, data: Path | str = "", other_code: bool = False, **changes) -> list[str]:
    """The notes of a run of both seeds, of which the first is finished."""
    runs = plan(scenario(data or home / "data" / "pets", **changes), home / "results")
    done = made(runs)
    assert len(done) == 1
    return same.check(runs, done, lambda name: catalogue.load(name, None, home / "cache"), home / "cache", other_code=other_code)


def refused(home: Path, data: Path | str = "", **changes) -> str:
    with pytest.raises(UserError) as told:
        checked(home, data, **changes)
    assert "\n" not in str(told.value)
    return str(told.value)


def rewritten(home: Path, **changes) -> None:
    """The finished record with other facts, sealed."""
    [path] = home.rglob("record.json")
    write_record(replace(read_record(path), **changes), path.parent)


def record(home: Path):
    [path] = home.rglob("record.json")
    return read_record(path)


# --- data --------------------------------------------------------------------------------------------------------------


def test_the_same_images_elsewhere_and_by_another_path_are_the_same_data(home, monkeypatch):
    (home / "other").mkdir()
    (home / "data" / "pets").rename(home / "other" / "pets")
    monkeypatch.chdir(home)

    assert checked(home, "./other/pets") == [] == checked(home, "other/../other/pets")


def removed(data: Path) -> None:
    (data / "bee" / "4.bmp").unlink()


def repainted(data: Path) -> None:
    bitmap(data / "bee" / "4.bmp", 999)


def renamed(data: Path) -> None:
    text(data / "classes.txt", "ant red ant", "bee bee", "cat cat", "dog dog")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (removed, "images: 20 now 19"),
        (repainted, "images: as many as before, but others"),
        (renamed, "class names: 'ant' now 'red ant'"),
    ],
)
def test_other_data_under_a_finished_run_are_told_with_what_to_remove(change, told, home):
    data = home / "data" / "pets"
    change(data)

    expected = f"{data}: {told} (1 finished run); remove {home}/results/mine/runs/pets to repeat them, or choose another"
    assert refused(home).startswith(expected)


def test_another_dataset_of_the_same_name_is_told(home):
    shutil.rmtree(home / "data" / "pets")
    pets(home / "data" / "pets", ("red", "green"), images=5)

    assert "images: another dataset called pets lay here (1 finished run)" in refused(home)


def test_an_embedded_dataset_is_not_ones_own_of_its_name(home):
    facts = record(home).dataset
    rewritten(home, dataset=replace(facts, named="pets", fingerprint="0" * 64, names_and_sizes=""))

    assert "another dataset called pets lay here" in refused(home)


def test_only_the_finished_runs_of_other_data_are_to_be_removed(home):
    root = home / "results" / "mine" / "runs" / "pets" / "zero-shot"
    other = replace(record(home), dataset=replace(record(home).dataset, fingerprint="bytes:0"))
    write_record(replace(other, run=replace(other.run, seed=7)), root / "shots1-seed7")

    assert f"(1 finished run); remove {root / 'shots1-seed7'} to repeat" in refused(home)


def test_a_half_done_run_of_other_images_is_told_before_it_goes_on(home):
    folder = home / "results" / "mine" / "runs" / "pets" / "zero-shot" / "shots1-seed2"
    header = json.dumps({"__metadata__": {"state": json.dumps({"identity": {"dataset": "bytes:0"}})}}).encode()
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "state.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)

    assert f"other images were there when the unfinished run was begun: {folder}; remove its folder" in refused(home)


def test_finished_runs_of_data_that_are_not_here_are_kept_with_a_note(home):
    runs = plan(scenario(home / "data" / "pets"), home / "results", seeds=[1])

    notes = same.check(runs, made(runs), lambda name: None, home / "cache")

    assert notes == [f"{home}/data/pets: is not here, so its 1 finished run could not be compared with it"]


def test_records_of_an_earlier_version_are_taken_as_far_as_they_tell(home):
    facts = record(home).dataset
    old = {each: DatasetFacts.__dataclass_fields__[each].default for each in ("named", "images", "names_and_sizes")}
    rewritten(home, dataset=replace(facts, fingerprint=facts.names_and_sizes, **old), code={},
              backbone=replace(record(home).backbone, file=""))  # fmt: skip
    assert checked(home) == []

    bitmap(home / "data" / "pets" / "bee" / "4.bmp", 999)  # of the same size: it could not tell
    assert checked(home) == []
    removed(home / "data" / "pets")
    assert "test images: 4 now" in refused(home) or "as many as before, but others" in refused(home)


def test_records_of_earlier_versions_and_of_this_one_share_a_table(home):
    new = record(home)
    old = replace(new, run=replace(new.run, seed=2), dataset=replace(new.dataset, fingerprint=new.dataset.names_and_sizes))
    other = replace(new, run=replace(new.run, seed=3), dataset=replace(new.dataset, fingerprint="bytes:0"))

    assert len(runs_of([old, new], home)) == len(runs_of([new, old], home)) == 1
    for records in ([new, other], [old, new, other], [other, old, new]):
        with pytest.raises(UserError, match="differ in dataset fingerprint"):
            runs_of(records, home)


@pytest.mark.parametrize("listed", ["./data/pets", "../elsewhere/pets", "pets.csv", "PETS"])
def test_a_table_does_not_miss_ones_own_data_that_the_scenario_lists_by_a_path(listed, home):
    one = record(home)
    facts = one.scenario | {"datasets": [listed, "digits"], "seeds": [1]}

    [runs] = runs_of([replace(one, scenario=facts)], home)

    assert runs.missing() == ["no finished run of digits"]


# --- weights and code --------------------------------------------------------------------------------------------------


def test_weights_that_were_written_over_are_told(home):
    weights = home / "w.safetensors"
    weights.write_bytes(b"one")
    backbone = {"architecture": "lamm-cl-mini", "weights": str(weights)}
    facts = scenario(home / "data" / "pets", backbone=backbone)
    rewritten(home, backbone=replace(record(home).backbone, file=of_file(weights, None)),
              scenario=facts.model_dump(mode="json") | {"hash": same_hash(facts)})  # fmt: skip
    (home / "results" / "mine" / "scenario.yaml").unlink()
    assert checked(home, backbone=backbone) == []

    weights.write_bytes(b"two")

    expected = f"weights: {weights} changed (1 finished run); remove {home}/results/mine/runs to repeat"
    assert expected in refused(home, backbone=backbone)


def same_hash(facts: Scenario) -> str:
    from lamm_cl.config.identity import content_hash

    return content_hash(facts)


def test_a_record_says_which_weights_and_which_code_made_it(home):
    made_with = record(home)

    assert made_with.backbone.file == of_file(same.EMBEDDED, None)
    assert {"methods/zeroshot.py", "learner/build.py", "towers/clip.py", "training/loop.py"} <= made_with.code.keys()
    assert "training/logs.py" not in made_with.code and made_with.dataset.images == (16, 4)


def test_a_changed_method_is_told_and_may_be_kept(home):
    rewritten(home, code=record(home).code | {"methods/zeroshot.py": "other"})

    told = refused(home)
    assert told.startswith("zero-shot: method code: zeroshot.py changed (1 finished run); remove ")
    assert "results/mine/runs/*/zero-shot to repeat them, --other-code to keep them, or choose another" in told
    assert checked(home, other_code=True) == []


def test_other_code_of_the_house_is_a_note(home):
    rewritten(home, code=record(home).code | {"learner/build.py": "other", "training/loop.py": "other"})

    assert checked(home) == ["1 finished run was made with other code of lamm-cl: 2 files differ (learner/build.py, "
                             "training/loop.py); another --results folder repeats them"]  # fmt: skip


SOURCE = '''"""Words."""
import math


class A:
    """More words."""

    def f(self, x=None):
        return math.sin(x)
'''


def hashed(source: str, folder: Path, monkeypatch) -> str:
    (folder / "methods").mkdir(exist_ok=True)
    (folder / "methods" / "a.py").write_text(source)
    monkeypatch.setattr(code, "PACKAGE", folder)
    code.of_file.cache_clear()
    code._parsed.cache_clear()
    found = code.of_file("methods/a.py")
    code.of_file.cache_clear()
    code._parsed.cache_clear()
    return found


def test_words_about_code_do_not_count_and_every_number_in_it_does(tmp_path, monkeypatch):
    whole = hashed(SOURCE, tmp_path, monkeypatch)

    for old, new in (("Words", "Others"), ("return", "# why\n        return"), ("=None", " = None")):
        assert hashed(SOURCE.replace(old, new), tmp_path, monkeypatch) == whole
    for old, new in (("sin", "cos"), ("=None", "=0"), ("math.sin(x)", "-math.sin(x)")):
        assert hashed(SOURCE.replace(old, new), tmp_path, monkeypatch) != whole
    assert whole == "4f16151b7deaa1fd"  # in every version of Python


# --- verify ------------------------------------------------------------------------------------------------------------


def again(home: Path, cache: Path, places=None) -> str:
    [path] = verify.runs(home / "results" / "mine").values()
    return verify.recompute(path, Settings(None, cache, "cpu", 1), lambda event: None, doors.train, places or {})


def test_verify_computes_features_anew_and_does_not_believe_the_cache(home, finished):
    cache = home / "cache"
    shutil.copytree(finished / "cache", cache)
    entries = sorted((cache / "features").rglob("*.npy"))
    assert entries
    for entry in entries:  # features of nothing, sealed as if they were right
        entry.write_bytes(b"")
        np.save(entry, np.zeros((1, 1), np.float32))
        facts = json.loads(entry.with_suffix(".json").read_text())
        entry.with_suffix(".json").write_text(json.dumps(facts | {"sha256": of_file(entry, None)}))

    assert again(home, cache) == ""


def test_verify_finds_ones_own_data_by_the_path_of_the_record_or_a_given_one(home, finished):
    named = record(home).dataset.named
    assert named == str(finished / "data" / "pets") and again(home, finished / "cache") == ""

    rewritten(home, dataset=replace(record(home).dataset, named="./gone/pets"))
    with pytest.raises(UserError, match=r"its data were ./gone/pets, which is not in .*; say where they are: --data pets=PATH"):
        again(home, finished / "cache")
    (home / "data" / "pets").rename(home / "moved")
    assert again(home, finished / "cache", {"pets": str(home / "moved")}) == ""


def test_verify_says_when_the_images_are_others(home, finished):
    repainted(home / "data" / "pets")

    assert again(home, finished / "cache", {"pets": str(home / "data" / "pets")}).startswith("dataset.fingerprint: 'bytes:")
