"""What a finished run learned, used on images and elsewhere."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import lamm_cl
from lamm_cl.data import catalogue

METHODS = ("zero-shot", "lamm", "simplecil")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cache):
    """Method -> folder of its run, of two shots."""
    results = tmp_path_factory.mktemp("results")
    lamm_cl.run("demo", methods=METHODS, datasets=["digits"], seeds=[1], shots=[2], results=results, cache=cache)
    return {method: results / "demo/runs/digits" / method / "shots2-seed1" for method in METHODS}


@pytest.fixture(scope="module")
def images(tmp_path_factory, cache):
    """Every test image of digits as a file, experience by experience -> (paths, class names)."""
    dataset, folder = catalogue.load("digits", None, cache), tmp_path_factory.mktemp("images")
    order = np.argsort(dataset.test.labels // 5, kind="stable")
    for i in order:
        Image.fromarray(dataset.test.images[i]).save(folder / f"{i}.png")
    return [folder / f"{i}.png" for i in order], [dataset.classes[dataset.test.labels[i]] for i in order]


@pytest.mark.parametrize("method", METHODS)
def test_a_reloaded_run_gets_as_many_images_right_as_its_record_says(method, runs, images):
    paths, names = images
    model = lamm_cl.load(runs[method])
    right = [next(iter(found)) == name for found, name in zip(lamm_cl.predict(model, paths), names, strict=True)]
    last = [c.correct for c in model.record.counts if c.label_space == "joint" and c.trained == 2]
    assert [sum(right[:250]), sum(right[250:])] == last


def test_probabilities_of_an_image_add_up_and_the_most_probable_class_comes_first(runs, images):
    (found,) = lamm_cl.predict(runs["lamm"], images[0][:1])
    assert list(found.values()) == sorted(found.values(), reverse=True) and abs(sum(found.values()) - 1) < 1e-5
    assert set(found) == set(lamm_cl.load(runs["lamm"]).names)
    assert lamm_cl.predict(runs["lamm"], []) == []


def test_exported_texts_give_the_runs_logits_with_plain_image_features(runs, images, tmp_path):
    paths = lamm_cl.export(runs["lamm"], tmp_path)
    tensors, facts = load_file(paths[0]), json.loads(paths[1].read_text())
    model = lamm_cl.load(runs["lamm"])
    clip = model.learner.clip
    pixels = torch.stack([clip.preprocess(Image.open(path)) for path in images[0][:4]])
    image = clip.model.encode_image(pixels, normalize=True)  # open_clip's own
    probabilities = (tensors["scale"] * image @ tensors["text"].T).softmax(dim=-1)
    for each, found in zip(probabilities, lamm_cl.predict(model, images[0][:4]), strict=True):
        assert all(abs(float(each[facts["classes"].index(name)]) - p) < 1e-4 for name, p in found.items())
    assert facts["kind"] == "text features" and facts["backbone"]["architecture"] == "lamm-cl-mini"


def test_a_head_without_texts_is_exported_as_its_tensors(runs, tmp_path):
    paths = lamm_cl.export(runs["simplecil"], tmp_path)
    facts = json.loads(paths[1].read_text())
    learned = load_file(runs["simplecil"] / "learned.safetensors")
    assert facts["kind"] == "learned tensors" and set(load_file(paths[0])) == set(learned)


def test_the_commands_print_classes_and_write_files(runs, images, tmp_path):
    def call(*words):
        return subprocess.run([sys.executable, "-m", "lamm_cl", *map(str, words)], capture_output=True, text=True, cwd=tmp_path)

    done = call("predict", runs["lamm"], *images[0][:2], "--top", "2")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2
    best, p = next(iter(lamm_cl.predict(runs["lamm"], images[0][:1])[0].items()))
    assert done.stdout.splitlines()[0].startswith(f"{images[0][0]}: {best} {100 * p:.1f} %, ")
    assert call("export", runs["lamm"], "-o", "out").returncode == 0 and (tmp_path / "out/model.safetensors").exists()
    missing = call("predict", runs["lamm"], "nowhere.png")
    assert missing.returncode == 2 and missing.stderr.strip().endswith("nowhere.png: no such image file")


def test_what_is_no_whole_run_is_told_in_one_line(runs, images, tmp_path):
    with pytest.raises(lamm_cl.UserError, match="no finished run; expected a folder with record.json"):
        lamm_cl.load(tmp_path)
    damaged = shutil.copytree(runs["lamm"], tmp_path / "damaged")
    content = bytearray((damaged / "learned.safetensors").read_bytes())
    content[-1] ^= 1
    (damaged / "learned.safetensors").write_bytes(content)
    with pytest.raises(lamm_cl.UserError, match="its bytes are not those that record.json was written with"):
        lamm_cl.load(damaged)
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(lamm_cl.UserError, match="no.png"):
        lamm_cl.predict(runs["lamm"], [tmp_path / "no.png"])
    with pytest.raises(lamm_cl.UserError, match="images: expected a list"):
        lamm_cl.predict(runs["lamm"], images[0][0])
