"""Other things in the place of files, links that lead out of results, and places where nothing can be written."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import strange
from PIL import Image
from strange import RUN, THINGS, called, put, soon, told

from lamm_cl import files
from lamm_cl.cli import doors, main
from lamm_cl.config.cards import load_scenario
from lamm_cl.data import catalogue, check
from lamm_cl.data.images import defect, open_image
from lamm_cl.errors import UserError
from lamm_cl.reports.derived import derived_files
from lamm_cl.sweeping import verify
from lamm_cl.sweeping.plan import complete, plan, unfinished
from lamm_cl.training import bank, state

NO_FILE = sorted(set(THINGS) - {"folder", "dangling"})


@pytest.fixture
def results(tmp_path):
    return strange.played_results(tmp_path / "results")


@pytest.fixture
def images(tmp_path):
    """A folder of two classes with three images each."""
    for name in ("ant", "bee"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "mine" / name / f"{i}.png")
    return tmp_path / "mine"


# --- other things in the place of files ------------------------------------------------------------------------------


@pytest.mark.parametrize("thing", sorted(THINGS))
def test_whatever_lies_in_the_place_of_a_file_is_refused_and_not_waited_for(tmp_path, thing):
    path = put(thing, tmp_path / "thing")
    with soon(5), pytest.raises(OSError) as caught:
        files.read_regular(path)

    assert files.refusal(caught.value).count("\n") == 0 and str(path) in files.refusal(caught.value)


def test_a_file_that_grows_while_it_is_read_is_not_read_for_ever(tmp_path, monkeypatch):
    (tmp_path / "log").write_bytes(b"x" * 100)
    assert files.read_regular(tmp_path / "log", 100) == b"x" * 100

    monkeypatch.setattr(files, "open_regular", lambda path, limit: path.open("rb"))
    with pytest.raises(OSError, match="larger than 99 bytes"):
        files.read_regular(tmp_path / "log", 99)


@pytest.mark.parametrize("thing", NO_FILE)
@pytest.mark.parametrize("command", ["table", "report", "verify", "compare", "plot"])
def test_a_record_that_is_no_file_is_one_line_in_every_command(results, thing, command, tmp_path):
    put(thing, results / RUN / "record.json")
    more = {"report": ["-o", tmp_path / "page.html"], "plot": ["--output", tmp_path / "drawn"]}.get(command, [])

    if command == "verify":  # it names what is wrong on stdout
        with soon():
            assert called("verify", results, "--recompute", 0)[0] == (2 if thing == "loop" else 1)
    else:
        assert "record.json" in told(command, results, *more)


@pytest.mark.parametrize("thing", ["fifo", "device", "endpoint"])
def test_a_run_whose_record_is_no_file_is_told_and_the_file_named(tmp_path, thing):
    [run] = plan(load_scenario("demo"), tmp_path, datasets=["species"], methods=["coop"], seeds=[1])
    put(thing, run.folder / "record.json")

    with soon(5), pytest.raises(UserError, match=r"record.json: .*; delete the file to repeat this run") as caught:
        complete(run)
    assert ": None" not in str(caught.value)


@pytest.mark.parametrize("thing", NO_FILE)
def test_a_scenario_a_card_and_the_scenario_of_a_folder_that_are_no_files_are_one_line(tmp_path, thing):
    path = put(thing, tmp_path / "mine.yaml")
    runs = plan(load_scenario("demo"), tmp_path / "results", datasets=["species"], methods=["coop"], seeds=[1])
    kept = put(thing, tmp_path / "results/demo/scenario.yaml")

    assert str(path) in told("run", path, "--dry-run") and str(path) in told("show", path)
    if thing != "loop":  # there is nothing then, and it is replaced
        with soon(5), pytest.raises(UserError, match=f"{kept}: cannot be read"):
            unfinished(runs)


@pytest.mark.parametrize("thing", ["fifo", "device", "enormous", "endpoint"])
@pytest.mark.parametrize("name", ["records.csv", "tables/degradation.csv", f"{RUN}/learned.safetensors"])
def test_verify_names_what_is_no_file(results, thing, name):
    put(thing, results / name)
    with soon():
        found = verify.problems(results, derived_files)

    assert any(str(results / name) in line for line in found)


def test_what_verify_misses_is_told_with_the_command_that_writes_it(results):
    (results / "records.csv").unlink()

    assert verify.problems(results, derived_files) == [f"{results}/records.csv: is missing; 'lamm-cl run' writes it"]


@pytest.mark.parametrize("thing", ["fifo", "device", "loop"])
def test_an_image_that_is_no_file_is_a_problem_and_no_hang(images, thing, tmp_path):
    put(thing, images / "ant" / "1.png")
    with soon(5):
        [found] = check.check([str(images)], None, tmp_path)

    assert found.level == "problem" and "1.png" in found.text
    with soon(5), pytest.raises(UserError, match="1.png"):
        open_image(images / "ant" / "1.png")
    assert defect(images / "ant" / "1.png")


@pytest.mark.parametrize("thing", ["fifo", "device", "loop", "folder"])
def test_a_classes_txt_and_a_list_that_are_no_files_are_told(images, thing, tmp_path):
    path = put(thing, tmp_path / "list.csv")
    if thing != "loop":  # there is nothing then
        put(thing, images / "classes.txt")
        with soon(5), pytest.raises(UserError, match="classes.txt"):
            catalogue.load(str(images), None, tmp_path)
    if thing not in ("folder", "loop"):
        with soon(5), pytest.raises(UserError, match="list.csv"):
            catalogue.load(str(path), None, tmp_path)


def test_a_class_folder_that_links_to_itself_is_a_problem_of_one_line(images, tmp_path):
    put("loop", images / "cat")
    [found] = check.check([str(images)], None, tmp_path)

    assert found.level == "problem" and f"{images}/cat" in found.text


def test_a_large_image_is_no_matter_for_the_screen(tmp_path, recwarn):
    Image.new("1", (12_000, 12_000)).save(tmp_path / "large.png")

    assert defect(tmp_path / "large.png") is None
    assert [str(each.message) for each in recwarn] == []


@pytest.mark.parametrize("thing", ["fifo", "device", "loop", "dangling", "endpoint"])
def test_an_entry_of_the_bank_and_a_state_that_are_no_files_are_made_again(tmp_path, thing):
    facts = {"a": 1}
    bank.get(tmp_path / "bank", facts, lambda: np.ones(3))
    [path] = (tmp_path / "bank").rglob("*.npy")
    put(thing, path)
    with soon(5):
        assert bank.get(tmp_path / "bank", facts, lambda: np.ones(3)).tolist() == [1, 1, 1]
    assert path.is_file() and not path.is_symlink()

    put(thing, tmp_path / state.NAME)
    with soon(5):
        try:
            assert state.read(tmp_path, {}) is None
        except OSError as error:
            assert state.NAME in files.refusal(error)


# --- writing stays in the results folder -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "words"), [("tables", ["table", "--write"]), ("figures", ["plot"])])
def test_a_folder_of_results_that_is_a_link_elsewhere_is_not_written_through(results, tmp_path, name, words):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if (results / name).exists():
        (results / name).rename(tmp_path / "moved")
    (results / name).symlink_to(elsewhere)

    assert "leads out of" in told(words[0], results, *words[1:])
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", ["state", "logs", ""])
def test_a_run_does_not_write_through_a_link(tmp_path, name):
    import played

    from lamm_cl.sweeping.execute import Settings, execute

    [run] = plan(load_scenario("demo"), tmp_path / "results", datasets=["species"], methods=["coop"], seeds=[1])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run.folder / name).parent.mkdir(parents=True)
    (run.folder / name).symlink_to(elsewhere)

    [failed] = execute([run], Settings(None, tmp_path, "cpu", 1), lambda event: None, train=played.train, publish=lambda *_: None)

    assert failed.mistake and "leads out of" in failed.text
    assert [path.name for path in elsewhere.rglob("*")] == []


def test_results_may_lie_on_another_disk_by_a_link(results, tmp_path):
    (tmp_path / "link").symlink_to(results)

    assert called("table", tmp_path / "link", "--write")[0] == 0
    files.write_atomic(tmp_path / "link/tables/x.csv", "1", within=tmp_path / "link")


# --- impossible places ------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`lamm-cl run` with training played -> what it says."""
    import played

    monkeypatch.setattr(doors, "train", played.train)
    monkeypatch.setattr(main.run, "_derive", lambda *_: 0)
    words = ("run", "demo", "--dataset", "digits", "--method", "coop", "--seed", 1)
    return lambda *more: told(*words, *more)


PLACES = {
    "/proc/none": "/proc/none",
    "/proc/self/fd/99/x": "/proc/self/fd/99",
    "{here}/" + "x" * 300: "File name too long",
    "{here}/file/x": "file",
    "{here}/loop/x": "loop",
    "{here}/nowhere/x": "nowhere",
    "/dev/null/x": "/dev/null",
}


@pytest.mark.parametrize("option", ["--results", "--cache"])
@pytest.mark.parametrize(("place", "said"), PLACES.items())
def test_a_place_where_nothing_can_be_written_is_one_line(run, tmp_path, option, place, said):
    (tmp_path / "file").touch()
    put("loop", tmp_path / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent" / "far")
    where = {"--results": tmp_path / "results", "--cache": tmp_path / "cache"} | {option: place.format(here=tmp_path)}

    assert said in run(*(word for pair in where.items() for word in pair))


def test_a_current_folder_that_was_removed_is_one_line(run, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    assert "lamm-cl: the current folder: No such file" in run("--cache", tmp_path / "cache")


def test_a_current_folder_that_is_removed_during_a_sweep_is_one_line(run, tmp_path, monkeypatch):
    """FileNotFoundError was taken for a lock that somebody else was quicker to take, for ever."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    monkeypatch.setattr(main.run, "check_data", lambda *_, **__: (tmp_path / "gone").rmdir())

    assert "No such file or directory; when that is mended" in run("--cache", tmp_path / "cache")


def lamm_cl(*words: str, **how) -> subprocess.CompletedProcess:
    """The command line as a process, with training played."""
    command = [sys.executable, str(Path(__file__).parent / "played.py"), *words]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, **how)


def test_a_standard_output_that_is_closed_is_one_line():
    done = lamm_cl("list", "methods", preexec_fn=lambda: os.close(1))

    assert done.returncode == 2 and done.stderr.startswith("lamm-cl: standard output is closed") and done.stderr.count("\n") == 1


def test_a_limit_on_the_size_of_files_is_one_line(tmp_path):
    import resource

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    words = ("run", "demo", "--dataset", "digits", "--method", "zero-shot", "--seed", "1")
    done = lamm_cl(*words, "--results", str(tmp_path), "--cache", str(tmp_path / "cache"), preexec_fn=limited)

    assert done.returncode == 2 and "File too large; when that is mended" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", sorted(files.CIRCUMSTANCES), ids=lambda kind: errno.errorcode[kind])
def test_what_a_place_does_to_its_user_is_told_in_one_line(kind):
    assert files.refusal(OSError(kind, os.strerror(kind), "x")).startswith(f"x: {os.strerror(kind)}; when")


def test_what_no_place_has_said_is_a_defect():
    assert files.refusal(FileNotFoundError(errno.ENOENT, "?")) is None
    assert files.refusal(OSError("no number")) is None


@pytest.mark.parametrize("moment", ["fsync", "chmod", "replace", "unlink"])
@pytest.mark.parametrize("kind", strange.ERRNOS, ids=lambda kind: errno.errorcode[kind])
def test_a_write_that_fails_anywhere_keeps_the_old_file_and_names_it(tmp_path, monkeypatch, moment, kind):
    path = tmp_path / "record.json"
    path.write_text("old")

    def refuse(*_, **__):
        raise OSError(kind, os.strerror(kind))

    monkeypatch.setattr(os, moment, refuse)
    if moment == "unlink":  # the clean-up after another failure: the first is told
        monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError) as caught:
        files.write_atomic(path, "new")

    assert files.refusal(caught.value).startswith(f"{path}: ") and path.read_text() == "old"


def test_a_state_whose_folder_is_a_file_is_one_line(tmp_path):
    (tmp_path / "state").touch()
    with pytest.raises(OSError) as caught:
        state.write(tmp_path, {}, state.State())

    assert f"{tmp_path}/state: File exists" in files.refusal(caught.value)


def test_results_that_become_a_loop_in_mid_run_are_one_line(tmp_path):
    put("loop", tmp_path / "results")
    with pytest.raises(OSError) as caught:
        files.write_atomic(tmp_path / "results" / "records.csv", "")

    assert files.refusal(caught.value)
