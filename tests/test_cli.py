"""The command line: what it prints, what it writes, and its exit status.

Training is played by tests/played.py; all else is the real thing, in processes of its own.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lamm_cl.config.cards import card_names, load_card, scenario_names

PLAYED = Path(__file__).parent / "played.py"
CRASH, MISTAKE, FOREVER = 66, 77, 99  # seeds, see played.py


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def environment(cache):
    return {**os.environ, "PYTHONPATH": str(PLAYED.parents[1]), "XDG_CACHE_HOME": str(cache), "COLUMNS": "200"}


@pytest.fixture
def lamm_cl(tmp_path, environment):
    """Call lamm-cl in an empty folder -> the finished process."""

    def call(*words, figures=False):
        command = [sys.executable, PLAYED, *map(str, words)]
        facts = environment if figures else environment | {"PLAYED_WITHOUT_FIGURES": "yes"}
        return subprocess.run(command, cwd=tmp_path, env=facts, capture_output=True, text=True, timeout=120)

    return call


def run_words(*words, seeds=(1,), methods=("coop",)):
    filters = [word for seed in seeds for word in ("--seed", seed)]
    return ["run", "demo", "--dataset", "digits", *filters, *(w for m in methods for w in ("--method", m)), *words]


def told(process) -> str:
    """The one line of a mistake."""
    assert process.returncode == 2, process.stderr
    assert process.stdout == ""
    assert process.stderr.count("\n") == 1 and process.stderr.startswith("lamm-cl: ")
    return process.stderr


def test_the_version_is_told(lamm_cl):
    assert re.fullmatch(r"lamm-cl \d+\.\d+\.\d+\n", lamm_cl("--version").stdout)


# --- list, show ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [["--help"], *(["list", w] for w in ("scenarios", "methods", "datasets", "backbones")), ["data", "list"], ["show", "lamm"]],
)
def test_what_only_informs_imports_nothing_heavy(words):
    code = (
        f"import sys; from lamm_cl.cli.main import main\ntry: main({words!r})\nexcept SystemExit: pass\n"
        "sys.exit(' '.join({'torch', 'avalanche', 'matplotlib', 'pandas', 'open_clip'} & {*sys.modules}) or 0)"
    )

    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert process.stderr == "" and process.returncode == 0


def test_the_lists_name_everything_that_is_shipped(lamm_cl):
    methods, scenarios = lamm_cl("list", "methods").stdout, lamm_cl("list", "scenarios").stdout

    assert all(f" {key} " in methods for key in card_names())
    assert all(f" {name} " in scenarios for name in scenario_names())
    assert "species" in lamm_cl("list", "datasets").stdout
    assert "lamm-cl-mini" in lamm_cl("list", "backbones").stdout


@pytest.mark.parametrize("words", [["list", "backbones"], ["show", "lamm"], run_words("--dry-run")])
def test_a_reader_that_went_away_is_no_success_and_no_traceback(environment, tmp_path, words):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, PLAYED, *map(str, words)]
    process = subprocess.run(command, cwd=tmp_path, env=environment, stdout=writing, stderr=subprocess.PIPE, timeout=60)
    os.close(writing)

    assert (process.returncode, process.stderr) == (128 + signal.SIGPIPE, b"")


def test_show_prints_settings_sources_departures_and_published_numbers(lamm_cl):
    shown = lamm_cl("show", "lamm").stdout

    card = load_card("lamm")
    assert "50 epochs, batch 32, sgd lr 0.002" in shown and "logit: 0.05" in shown
    assert all(text in shown for text in (*card.provenance.values(), *card.departures))
    assert "84.14" in shown and "Table 2" in shown


# --- run -------------------------------------------------------------------------------------------------------------


def test_a_run_ends_with_the_table_on_the_screen_and_all_files_of_the_results(lamm_cl, tmp_path):
    process = lamm_cl(*run_words(seeds=[1, 2], methods=["coop", "lamm"]), figures=True)

    assert process.returncode == 0, process.stderr
    assert (
        "4 of 4 runs finished" in process.stdout
        and "CoOp" in process.stdout
        and "Degradation" in process.stdout.title()
    )
    names = {str(path.relative_to(tmp_path / "results/demo")) for path in (tmp_path / "results/demo").rglob("*.*")}
    assert {f"runs/digits/{m}/shots16-seed{s}/record.json" for m in ("coop", "lamm") for s in (1, 2)} <= names
    assert {"scenario.yaml", "records.csv", "tables/degradation.csv", "tables/degradation_std.csv"} <= names
    assert {f"tables/degradation.{end}" for end in ("md", "tex")} <= names
    figures = {f"figures/{stem}.{end}" for stem in ("forgetting_curves", "accuracy_matrix") for end in ("png", "svg")}
    assert figures <= names
    assert all(f"results/demo/{name}" in process.stdout for name in figures)


def test_plain_output_tells_how_much_is_done_and_what_is_left(lamm_cl):
    lines = lamm_cl(*run_words(seeds=[1, 2])).stdout.splitlines()

    finished = [
        line
        for line in lines
        if re.match(r"\d\d:\d\d:\d\d +\d+%  \d/2  digits / coop / shots 16 / seed \d: finished", line)
    ]
    assert [line.split()[1] for line in finished] == ["50%", "100%"]


def test_running_again_does_nothing_and_says_so(lamm_cl, tmp_path):
    lamm_cl(*run_words(), figures=True)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*")}

    process = lamm_cl(*run_words(), figures=True)

    assert (process.returncode, process.stdout) == (0, "nothing to do: all 1 runs are finished\n")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*")} == before


def test_figures_that_a_kill_cut_off_are_drawn_by_the_next_call(lamm_cl, tmp_path):
    lamm_cl(*run_words(), figures=True)
    folder = tmp_path / "results/demo"
    (folder / "lock").mkdir()
    (folder / "lock/elsewhere.0.1.token").touch()
    os.utime(folder / "lock/elsewhere.0.1.token", (0, 0))
    (folder / "figures/incremental_curves.png").unlink()

    lamm_cl(*run_words(), figures=True)

    assert (folder / "figures/incremental_curves.png").exists() and not (folder / "lock").exists()


def test_figures_of_very_many_runs_are_drawn_when_they_are_asked_for(lamm_cl, tmp_path):
    """Played: a limit of none."""
    first = lamm_cl(*run_words())
    again = lamm_cl(*run_words())

    line = "figures of 1 runs take a while: 'lamm-cl plot results/demo' draws them"
    assert (first.returncode, again.stdout) == (0, "nothing to do: all 1 runs are finished\n")
    assert first.stdout.splitlines()[-1] == line and not (tmp_path / "results/demo/figures").exists()
    assert (tmp_path / "results/demo/tables/degradation.csv").exists()


def test_a_dry_run_prints_the_plan_and_writes_nothing(lamm_cl, tmp_path):
    lamm_cl(*run_words(seeds=[1]))
    before = sorted(tmp_path.rglob("*"))

    process = lamm_cl(*run_words("--dry-run", seeds=[1, 2]))

    assert process.returncode == 0
    assert "demo: 2 runs, 1 finished, 1 to do" in process.stdout
    assert re.search("finished .*seed 1 .*\n.*to do .*seed 2 ", process.stdout)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_run_writes_the_training_curves_that_are_asked_for_and_none_unasked(lamm_cl, tmp_path, jobs):
    lamm_cl(*run_words(seeds=[3]))
    process = lamm_cl(*run_words("--jobs", jobs, "--log", "csv", "--log", "tensorboard", "--log", "csv", seeds=[1, 2, 3]))

    assert process.returncode == 0, process.stderr
    found = sorted(str(path.relative_to(tmp_path / "results/demo/runs/digits/coop")) for path in tmp_path.rglob("logs/*"))
    assert found == [f"shots16-seed{seed}/logs/{name}" for seed in (1, 2) for name in ("csv", "tensorboard")]


def test_a_card_of_ones_own_runs_beside_the_others(lamm_cl, tmp_path):
    (tmp_path / "longer.yaml").write_text("extends: coop\nname: Longer\ntraining: {epochs: 100}\n")

    process = lamm_cl(*run_words(methods=["coop", "longer.yaml"]))

    assert process.returncode == 0, process.stderr
    assert (tmp_path / "results/demo/runs/digits/longer/shots16-seed1/record.json").exists()


def test_a_failed_run_is_named_at_the_end_with_status_1(lamm_cl, tmp_path):
    process = lamm_cl(*run_words(seeds=[1, CRASH]))

    assert process.returncode == 1
    assert "failed: digits / coop / shots 16 / seed 66: RuntimeError: seed 66 crashes" in process.stderr
    assert "traceback.txt" in process.stderr and "Traceback" not in process.stderr
    assert (tmp_path / "results/demo/tables/degradation.csv").exists()


def test_verify_says_whether_files_and_tables_are_what_they_say(lamm_cl, tmp_path):
    lamm_cl(*run_words())
    whole = lamm_cl("verify", "results/demo", "--recompute", 0)
    (tmp_path / "results/demo/tables/degradation.csv").write_text("typed by hand")

    process = lamm_cl("verify", "results/demo", "--recompute", 0)

    assert (whole.returncode, whole.stdout) == (0, "1 runs: every file is whole, tables follow from the records\n")
    assert process.returncode == 1
    assert process.stdout == "results/demo/tables/degradation.csv: does not follow from the records\n"


def test_verify_does_a_run_again_and_compares(lamm_cl, tmp_path):
    lamm_cl(*run_words())
    same = lamm_cl("verify", "results/demo", "--run", "digits/coop/shots16-seed1")
    record = tmp_path / "results/demo/runs/digits/coop/shots16-seed1/record.json"
    whole = record.read_text()
    record.write_text(whole.replace('"correct": 90', '"correct": 91'))
    changed = lamm_cl("verify", "results/demo")
    record.write_text(re.sub(',\n "sha256": "[0-9a-f]+"', "", record.read_text()))  # as if nobody were to notice

    process = lamm_cl("verify", "results/demo")

    assert changed.returncode == 1 and changed.stdout.count("record.json: was changed since it was written") == 2
    assert same.returncode == 0 and same.stdout.endswith("the same counts and the same learned tensors\n")
    assert process.returncode == 1
    assert "differs: counts.own, trained 2, tested 2.correct: 91, now 90" in process.stdout


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rum"], "did you mean 'run'?"),
        (["run", "dmo"], "no scenario 'dmo'; did you mean 'demo'?"),
        (["run", "demo", "--method", "lam"], "no method card 'lam'; did you mean 'lamm'?"),
        (["run", "demo", "--dataset", "specis"], "no dataset 'specis'; did you mean 'species'?"),
        (["run", "demo", "--seed", "one"], "--seed: expected a whole number from 0 to 4294967295, got 'one'"),
        (["run", "demo", "--shots", "0"], "--shots: expected a whole number from 1 on, got '0'"),
        (["run", "demo", "--save-every", "-1"], "--save-every: expected"),
        (["run", "demo", "--save-every", "nan"], "--save-every: expected seconds, 0 or more, got 'nan'"),
        (["run", "demo", "--jobs", "-1"], "--jobs: expected a whole number from 1 on, got '-1'"),
        (["run", "demo", "--log", "tensorbord"], "did you mean 'tensorboard'?"),
        (["run", "demo", "--epochs", "3"], "unrecognized arguments: --epochs 3"),
        (["run", "demo", "--dataset", "DTD"], "DTD"),
        (["show", "lam"], "no method card 'lam'; did you mean 'lamm'?"),
        (["table", "results/demo"], "results/demo"),
        (["plot", "results/demo"], "results/demo"),
        (["list", "method"], "did you mean 'methods'?"),
    ],
)
def test_a_mistake_is_one_line_with_status_2_and_writes_nothing(lamm_cl, tmp_path, words, message):
    process = lamm_cl(*words)

    assert message in process.stderr and "Traceback" not in process.stderr
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_that_only_the_run_finds_is_one_line_too(lamm_cl, tmp_path):
    process = lamm_cl(*run_words(seeds=[MISTAKE]))

    assert process.returncode == 2
    assert process.stderr == "lamm-cl: context: depth: 9, but the towers have 4 blocks\n"
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_the_results_is_told_before_anything_is_written(lamm_cl, tmp_path):
    (tmp_path / "results").write_text("")

    assert "results: is in the way; expected a folder for results" in told(lamm_cl(*run_words()))
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_results_folder_of_another_backbone_is_refused(lamm_cl):
    lamm_cl(*run_words())

    line = told(lamm_cl(*run_words("--backbone", "ViT-B-16:openai", seeds=[2])))

    assert "backbone.architecture: 'lamm-cl-mini', now 'ViT-B-16'; choose another --results folder" in line.replace(
        ")", ""
    )


# --- interrupts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupt_ends_with_its_status_and_a_word_how_to_go_on(environment, tmp_path, sent, status, jobs):
    words = run_words("--jobs", str(jobs), seeds=["1", str(FOREVER)])
    command = [sys.executable, PLAYED, *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, start_new_session=True, **pipes)
    record = tmp_path / "results/demo/records.csv"
    deadline = time.monotonic() + 60
    while not record.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)

    os.killpg(process.pid, sent) if sent == signal.SIGINT else process.send_signal(sent)
    _, errors = process.communicate(timeout=60)

    assert process.returncode == status
    assert errors.count("\n") == 1 and "the same command goes on from here" in errors
    assert sorted(path.name for path in record.parent.iterdir()) == ["records.csv", "runs", "scenario.yaml", "tables"]
