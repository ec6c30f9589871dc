"""Features in place of images: what a file may hold, what is refused, and that heads cannot tell them from a tower's."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
import toy

from lamm_cl.cli import doors, main
from lamm_cl.config.cards import card_for
from lamm_cl.config.schema import Backbone
from lamm_cl.data import catalogue
from lamm_cl.data.features import load_features, parts_of
from lamm_cl.errors import UserError
from lamm_cl.sweeping import verify
from lamm_cl.sweeping.execute import Settings, execute
from lamm_cl.sweeping.plan import Run, plan
from lamm_cl.towers.features import FeaturesOnly
from lamm_cl.training.run import do, prepare

BACKBONE = {"architecture": "features", "weights": "ViT-B-32 openai"}
C, D = 5, 8


def content(**changes) -> dict[str, np.ndarray]:
    """A file that is as it should be, but for `changes`; None leaves an array out."""
    draw = np.random.RandomState(0)
    centres = draw.randn(C, D)
    labels = {"train": np.repeat(np.arange(C), 6), "val": np.repeat(np.arange(C), 3), "test": np.repeat(np.arange(C), 4)}
    arrays = {f"{part}_y": y for part, y in labels.items()}
    arrays |= {f"{part}_x": (centres[y] + draw.randn(len(y), D)).astype(np.float32) for part, y in labels.items()}
    names = np.array([f"thing_{c}" for c in range(C)])
    arrays |= {"text": centres.astype(np.float32), "names": names, "origin": np.array("dice")}
    return {key: value for key, value in (arrays | changes).items() if value is not None}


def written(folder, name: str = "own.npz", **changes):
    np.savez(folder / name, **content(**changes))
    return folder / name


def planned(folder, path, method: str = "zero-shot", **changes) -> Run:
    measured = toy.scenario(**{"backbone": BACKBONE, "datasets": [str(path)], "overrides": {}} | changes)
    return Run(measured, str(path), method, card_for(measured, method), measured.shots[0], measured.seeds[0], folder)


def run(folder, path, method: str = "zero-shot", **changes):
    one = planned(folder, path, method, **changes)
    return do(one, data_root=None, cache=folder / "cache", device="cpu", progress=lambda at: None)


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What a file says


def test_a_file_says_its_names_splits_and_texts_and_what_they_are(tmp_path):
    path = written(tmp_path)

    data = load_features("own", path)

    assert data.classes == tuple(f"thing {c}" for c in range(C))
    assert (len(data.train), len(data.val), len(data.test)) == (30, 15, 20)
    assert data.text.shape == (C, D)
    facts = data.features
    assert (facts.origin, facts.dtype, facts.normalised, facts.text) == ("dice", "float32", False, "float32, not normalised")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("integer", [np.uint8, np.int16, np.uint64, ">i4"])
def test_any_floats_and_any_integers_are_taken_as_they_are(tmp_path, dtype, integer):
    arrays = content()
    kinds = {"_x": dtype, "_y": integer}
    changes = {key: array.astype(kinds[key[-2:]]) for key, array in arrays.items() if key[-2:] in kinds}

    data = load_features("own", written(tmp_path, **changes))

    assert data.features.dtype == np.dtype(dtype).newbyteorder("=").name
    np.testing.assert_array_equal(data.train.images, changes["train_x"])
    np.testing.assert_array_equal(data.train.labels, arrays["train_y"])


def test_features_of_unit_length_are_told_from_raw_ones(tmp_path):
    def unit(x):
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)

    path = written(tmp_path, **{key: unit(array) for key, array in content().items() if key == "text" or key.endswith("_x")})

    assert load_features("own", path).features.normalised
    assert load_features("own", path).features.text == "float16, normalised"


def test_names_may_be_absent_and_may_stand_for_two_classes(tmp_path):
    numbered = load_features("own", written(tmp_path, names=None, text=None))
    doubled = load_features("own", written(tmp_path, names=np.array(["crane", "crane", "a", "b", "c"])))

    assert numbered.classes[:2] == ("class 0", "class 1")
    assert any("no `text`" in note for note in numbered.notes)
    assert doubled.classes[:2] == ("crane", "crane")


def test_a_part_is_learned_from_by_its_name_and_the_only_train_k_without(tmp_path):
    arrays = content()
    path = written(tmp_path, train_x=None, train_y=None, train4_x=arrays["train_x"], train4_y=arrays["train_y"])

    by_itself, by_name = load_features("own", path), load_features("own", path, "val")

    assert by_itself.features.learned_from == "train4" and len(by_itself.train) == 30 and len(by_itself.val) == 15
    assert by_name.features.learned_from == "val" and len(by_name.train) == 15 and by_name.val is None
    assert parts_of("x/own.npz:val") == ("x/own.npz", "val") and parts_of("own.csv") is None
    assert catalogue.canonical("x/own.npz:val") == "own-val" and catalogue.canonical("x/own.npz") == "own"


def test_another_number_in_the_file_is_another_dataset_and_another_compression_is_not(tmp_path):
    path = written(tmp_path)
    first = load_features("own", path).fingerprint
    np.savez_compressed(path, **content())
    same = load_features("own", path).fingerprint
    text = content()["text"]
    text[0, 0] += 1

    assert same == first
    assert load_features("own", written(tmp_path, text=text)).fingerprint != first


# What is refused


def nan(key: str) -> dict:
    x = content()[key].copy()
    x[3, 1] = np.nan
    return {key: x}


REFUSED = {
    "NaN": (nan("test_x"), "test_x: 1 of 20 rows hold NaN or infinity, row 3 first"),
    "NaN in a text": (nan("text"), "text: 1 of 5 rows hold NaN"),
    "infinity for a float32": ({"train_x": np.full((30, D), 1e300)}, "train_x: 30 of 30 rows hold NaN or infinity"),
    "another width": ({"test_x": np.ones((20, D + 1), np.float32)}, "test_x: 9 numbers a feature, but train_x has 8"),
    "pixels": ({"train_x": np.ones((30, 3, 2, 2), np.float32)}, "train_x: expected float16, float32 or float64 of shape"),
    "whole numbers as features": ({"train_x": np.ones((30, D), np.int64)}, "train_x: expected float16, float32 or float64"),
    "fewer labels than rows": ({"train_y": np.zeros(29, int)}, "train_x has 30 rows, train_y has 29 labels"),
    "labels that are no whole numbers": ({"test_y": np.zeros(20)}, "test_y: expected whole numbers (N,), got float64"),
    "a label below 0": ({"test_y": np.full(20, -1)}, "test_y: label -1 in row 0; 0, 1, 2, ... are expected"),
    "a label outside the names": ({"test_y": np.full(20, 9)}, "test_y: label 9 in row 0, but there are 5 classes"),
    "a label out of all reach": ({"test_y": np.full(20, 10**8), "names": None, "text": None}, "labels go up to 100000000"),
    "a class without training": ({"train_y": np.repeat([0, 1, 2, 3, 3], 6)}, "train_x has no features of 'thing_4'"),
    "a class without test": ({"test_y": np.repeat([0, 1, 2, 3, 3], 4)}, "test_x has no features of 'thing_4'"),
    "texts of too few classes": ({"text": np.ones((4, D), np.float32)}, "text: (4, 8) does not fit 5 classes"),
    "texts of another width": ({"text": np.ones((5, 9), np.float32)}, "text: (5, 9) does not fit 5 classes"),
    "names that are numbers": ({"names": np.arange(5)}, "names: expected texts (C,), got int64"),
    "names as Python objects": ({"names": np.array(["a", "b", "c", "d", "e"], dtype=object)}, "names holds Python objects"),
    "features as Python objects": ({"train_x": np.array([None] * 30, dtype=object)}, "train_x holds Python objects"),
    "an origin of two texts": ({"origin": np.array(["a", "b"])}, "origin: expected one text"),
    "nothing to learn from": ({"train_x": None}, "no array 'train_x'; did you mean 'train_y'?"),
    "labels forgotten": ({"val_y": None}, "no array 'val_y'"),
    "nothing": ({"test_x": np.ones((0, D), np.float32), "test_y": np.zeros(0, int)}, "test_x: is empty"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_one_line_with_the_file_and_the_array(tmp_path, what):
    changes, expected = REFUSED[what]

    said = refusal(load_features, "own", written(tmp_path, **changes))

    assert said.startswith(f"{tmp_path / 'own.npz'}: ") and expected in said


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize("what", ["text", "pickle", "array", "cut off", "broken", "no arrays", "member"])
def test_a_file_that_is_no_npz_is_one_line_and_nothing_is_unpickled(tmp_path, what):
    path = written(tmp_path)
    whole = path.read_bytes()
    if what == "array":
        file = io.BytesIO()
        np.save(file, np.zeros(3))
        path.write_bytes(file.getvalue())
    elif what in ("no arrays", "member"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("train_x" if what == "member" else "notes.txt", "hello")
    elif what == "broken":
        path.write_bytes(whole[:200] + bytes(300) + whole[500:])
    else:
        path.write_bytes({"text": b"hello", "pickle": pickle.dumps(Trap()), "cut off": whole[: len(whole) // 2]}[what])

    assert str(path) in refusal(load_features, "own", path)


def test_the_check_tells_what_is_there_and_refuses_with_status_2(tmp_path, capsys):
    good, bad = written(tmp_path), written(tmp_path, "bad.npz", **nan("train_x"))

    assert main.main(["data", "check", str(good)]) == 0
    said = capsys.readouterr().out
    assert main.main(["data", "check", str(bad)]) == 2
    error = capsys.readouterr().err
    assert main.main(["data", "check", "owm.npz", "--data-root", str(tmp_path)]) == 2
    missing = capsys.readouterr().err

    assert "5 classes, 30 training, 15 validation and 20 test features of 8 numbers" in said and "'thing 0'" in said
    assert error.count("\n") == 1 and "NaN" in error
    assert missing.count("\n") == 1 and "did you mean 'own.npz'?" in missing


# Runs


@pytest.mark.parametrize("changes", [
    {}, {"experiences": 5}, {"experiences": [1, 4], "order": {"seed": 3}}, {"order": "reversed", "shots": "full"},
    {"shots": 1, "train_label_space": "seen"},
])  # fmt: skip
def test_zero_shot_is_the_nearest_of_the_files_texts_whatever_the_stream(tmp_path, changes):
    path = written(tmp_path)

    record = run(tmp_path / "run", path, **changes)

    arrays = content()
    right = int(((arrays["test_x"] @ (arrays["text"] / np.linalg.norm(arrays["text"], axis=1, keepdims=True)).T).argmax(1)
                 == arrays["test_y"]).sum())  # fmt: skip
    T = len(record.dataset.experiences)
    last = [count.correct for count in record.counts if count.label_space == "joint" and count.trained == T]
    assert sum(last) == right
    assert record.dataset.features.origin == "dice" and len(record.dataset.features.file) == 64


def test_raw_is_what_the_file_holds_unit_the_same_normalised_and_validation_its_own(tmp_path):
    path = written(tmp_path)
    one = planned(tmp_path / "run", path, order="reversed", shots="full")

    prepared = prepare(one, FeaturesOnly(Backbone(**BACKBONE)), load_features("own", path), tmp_path)
    seen = prepared.sources.observed(0)

    x = torch.from_numpy(content()["train_x"])[seen.ids]
    assert torch.equal(seen.raw, x)
    assert torch.equal(seen.unit, torch.nn.functional.normalize(x, dim=-1))
    assert torch.equal(seen.view(3).unit, seen.unit)
    assert seen.val.part == "val" and set(seen.val.y.tolist()) == {0, 1, 2}
    assert (prepared.model.clip.D, prepared.model.clip.scale.item()) == (D, 100)
    assert "before their projection" in refusal(lambda: seen.trunk)


@pytest.mark.parametrize(("method", "expected"), [
    ("coop", "coop needs the text tower"), ("maple", "maple needs the text tower"), ("lamm", "lamm needs the text tower"),
    ("zero-shot-7", "zero-shot-7 needs the text tower"), ("kgcoop", "kgcoop needs the text tower"),
    ("promptsrc", "promptsrc needs the text tower"), ("vpt", "vpt needs the image tower"), ("bofa", "bofa needs the image tower"),
    ("engine", "engine needs image features before their projection"),
])  # fmt: skip
def test_a_method_that_needs_a_tower_says_so_in_one_line(tmp_path, method, expected):
    assert refusal(run, tmp_path / "run", written(tmp_path), method).startswith(expected)


@pytest.mark.parametrize("method", ["clip-adapter", "taskres", "proof"])
def test_heads_that_read_texts_learn_on_the_files_features_and_texts(tmp_path, method):
    changes = {"overrides": {method: {"training": toy.SMALL | {"epochs": 20}}}}
    record = run(tmp_path / "run", written(tmp_path), method, **changes)

    assert record is None or record.counts
    with pytest.raises(UserError, match="needs class texts"):
        run(tmp_path / "other", written(tmp_path, "none.npz", text=None), method, **changes)


def test_a_method_that_reads_texts_says_that_the_file_has_none(tmp_path):
    assert refusal(run, tmp_path / "run", written(tmp_path, text=None)) == "zero-shot needs class texts; own has no `text`"


def test_features_with_a_clip_and_images_without_one_are_refused(tmp_path, capsys):
    path = written(tmp_path)
    embedded = {"architecture": "lamm-cl-mini", "weights": "embedded"}

    assert "go with backbone: {architecture: features" in refusal(run, tmp_path / "run", path, backbone=embedded)
    assert "holds images" in refusal(run, tmp_path / "run", "digits")


def test_a_run_from_the_command_line_finds_the_file_in_the_data_root(tmp_path, capsys):
    written(tmp_path)
    facts = {"name": "mine", "version": 1, "backbone": BACKBONE, "datasets": ["own.npz"], "experiences": 2, "shots": "full",
             "seeds": [1], "methods": ["zero-shot"]}  # fmt: skip
    (tmp_path / "mine.yaml").write_text(json.dumps(facts))
    words = ["--data-root", str(tmp_path), "--results", str(tmp_path / "results"), "--cache", str(tmp_path / "cache")]

    assert main.main(["run", str(tmp_path / "mine.yaml"), *words, "--dry-run"]) == 0
    assert main.main(["run", str(tmp_path / "mine.yaml"), *words, "--method", "coop"]) == 2
    assert "coop needs the text tower" in capsys.readouterr().err


def test_a_run_on_features_is_recomputed_where_its_file_lies_in_the_data_root(tmp_path):
    written(tmp_path)
    settings = Settings(data_root=tmp_path, cache=tmp_path / "cache", device="cpu", jobs=1)
    scenario = toy.scenario(backbone=BACKBONE, datasets=["own.npz", "own.npz:val"], overrides={}, name="mine")

    failures = execute(plan(scenario, tmp_path), settings, lambda event: None, train=doors.train, publish=doors.publish)

    assert failures == [] and verify.problems(tmp_path / "mine", doors.derived) == []
    found = [verify.recompute(one, settings, lambda event: None, doors.train) for one in verify.runs(tmp_path / "mine").values()]
    assert found == ["", ""]


# Export


def test_exported_features_give_the_counts_of_the_images_they_were_made_of(tmp_path, capsys):
    cache = tmp_path / "cache"
    path = tmp_path / "digits-mini.npz"

    words = ["--dataset", "digits", "--backbone", "lamm-cl-mini", "-o", str(path), "--cache", str(cache)]
    status = main.main(["cache", "export", *words])
    said = capsys.readouterr().out

    assert status == 0 and 'weights: "lamm-cl-mini embedded"' in said
    changes = {"order": {"seed": 2}, "experiences": 3}
    images = planned(tmp_path / "images", "digits", backbone={"architecture": "lamm-cl-mini", "weights": "embedded"}, **changes)
    on_images = do(images, data_root=None, cache=cache, device="cpu", progress=lambda at: None)
    on_features = run(tmp_path / "features", path, **changes)
    assert on_features.counts == on_images.counts
    assert on_features.dataset.classes == on_images.dataset.classes
    assert on_features.dataset.features.origin.startswith("digits through lamm-cl-mini embedded")
    assert not on_features.dataset.features.normalised


def test_an_export_that_cannot_be_is_refused_before_anything_is_encoded(tmp_path, capsys):
    path = written(tmp_path)
    for words in (["--dataset", "digits", "--backbone", "lamm-cl-mini", "-o", "x.txt"],
                  ["--dataset", str(path), "--backbone", "lamm-cl-mini", "-o", str(tmp_path / "x.npz")],
                  ["--dataset", "digits", "--backbone", "features:x", "-o", str(tmp_path / "x.npz")]):  # fmt: skip
        assert main.main(["cache", "export", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "x.npz").exists()
