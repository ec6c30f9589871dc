"""The public names: what `import lamm_cl` offers, from a script."""

import doctest
import inspect
import shutil
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

import lamm_cl

ROOMS = ("running", "results", "streams", "models", "strategies")
PUBLIC = [name for name in lamm_cl.__all__ if name not in ("UserError", "__version__")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(autouse=True)
def elsewhere(folder, cache, monkeypatch):
    """A script in a folder of its own."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.fixture(scope="module")
def demo(folder, cache):
    """results/demo with zero-shot CLIP on digits, as the first example leaves it."""
    return lamm_cl.run("demo", methods=["zero-shot"], datasets=["digits"], seeds=[1],
                       results=folder / "results", cache=cache / "lamm-cl")  # fmt: skip


@pytest.mark.parametrize("room", ROOMS)
def test_the_examples_of_the_docstrings_give_what_they_print(room, demo, folder, tmp_path, monkeypatch):
    shutil.copytree(folder / "results", tmp_path / "results")  # some write into it
    monkeypatch.chdir(tmp_path)
    module = import_module(f"lamm_cl.library.{room}")
    found = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert found.attempted and not found.failed


def test_importing_the_library_takes_less_than_a_tenth_of_a_second():
    code = "import time; t = time.process_time(); import lamm_cl; print(time.process_time() - t)"
    took = min(float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
               for _ in range(3))  # fmt: skip
    assert took < 0.1


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented_and_typed(name):
    found = getattr(lamm_cl, name)
    assert inspect.getdoc(found)
    signature = inspect.signature(found)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty or parameter.name == "self", parameter


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'tables'"):
        lamm_cl.tables  # noqa: B018


def test_run_gives_the_records_that_the_command_gives(demo, folder, cache):
    from lamm_cl.results.file import read_record

    command = [sys.executable, "-m", "lamm_cl", "run", "demo", "--method", "zero-shot", "--dataset", "digits", "--seed", "1"]
    subprocess.run([*command, "--results", str(folder / "theirs"), "--cache", str(cache / "lamm-cl")],
                   check=True, capture_output=True)  # fmt: skip
    place = "demo/runs/digits/zero-shot/shots16-seed1"
    theirs = read_record(folder / "theirs" / place / "record.json")
    assert demo[0].facts() == theirs.facts()
    for name in ("records.csv", "scenario.yaml", "tables/degradation.csv"):
        assert (folder / "results/demo" / name).read_bytes() == (folder / "theirs/demo" / name).read_bytes()


def test_running_again_does_nothing_and_gives_the_same_records(demo, folder):
    path = folder / "results/demo/runs/digits/zero-shot/shots16-seed1/record.json"
    before, start = path.stat().st_mtime_ns, time.perf_counter()
    again = lamm_cl.run("demo", methods=["zero-shot"], datasets=["digits"], seeds=[1])
    assert again == demo and path.stat().st_mtime_ns == before
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"methods": "zero-shot"}, "methods: expected a list, got 'zero-shot'"),
        ({"methods": ["zeroshot"]}, "did you mean 'zero-shot'"),
        ({"datasets": ["digit"]}, "no dataset 'digit'; did you mean 'digits'"),
        ({"seeds": 1}, "seeds: expected a list"),
        ({"seeds": ["1"]}, "seeds: expected whole numbers"),
        ({"shots": [0]}, "shots: expected whole numbers"),
        ({"jobs": 0}, "jobs: expected a whole number from 1 on"),
        ({"device": "gpu"}, "device: expected auto, cpu or cuda, got 'gpu'"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_runs(options, told, tmp_path):
    with pytest.raises(lamm_cl.UserError, match=told.replace("(", r"\(")) as error:
        lamm_cl.run("demo", results=tmp_path / "none", **options)
    assert "\n" not in str(error.value) and not (tmp_path / "none").exists()


def test_a_frame_of_records_has_the_counts_of_records_csv(demo, folder):
    frame = lamm_cl.records("results/demo")
    pd.testing.assert_frame_equal(frame, lamm_cl.records(demo))
    written = pd.read_csv(folder / "results/demo/records.csv", dtype={"correct": "Int64"})
    pd.testing.assert_frame_equal(frame.round(6), written, check_dtype=False)
    assert frame.correct.dtype == "Int64"


def test_a_frame_of_a_table_has_the_numbers_of_its_csv(demo):
    frame = lamm_cl.table(Path("results/demo"), "incremental")
    written = pd.read_csv("results/demo/tables/incremental.csv", index_col=list(frame.index.names))
    assert (frame.round(2) - written).abs().max(axis=None) < 0.011 and frame.index.equals(written.index)
    assert (lamm_cl.table("results/demo", "incremental", "seeds")["last"] == 1).all()


def test_an_unknown_table_or_folder_is_told_in_one_line(demo):
    with pytest.raises(lamm_cl.UserError, match="no table 'degradations'; did you mean 'degradation'"):
        lamm_cl.table("results/demo", "degradations")
    with pytest.raises(lamm_cl.UserError, match="no table value 'median'"):
        lamm_cl.table("results/demo", value="median")
    with pytest.raises(lamm_cl.UserError, match="no such results folder; did you mean 'demo'"):
        lamm_cl.records("results/dem")
