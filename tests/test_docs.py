"""The manual is what the program does: every block of README and docs runs, in order, each page in a folder of its own.

Training is played (tests/played.py) but for the pages on Python, whose runs are real.  A block whose first line says
`# not run in tests: why` is parsed alone, as are the commands in sentences.
"""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from urllib.parse import quote

import manual
import notebook
import numpy as np
import played
import pytest
import yaml
from PIL import Image

from lamm_cl.cli import doors, main
from lamm_cl.cli import run as running
from lamm_cl.config import explained, pieces
from lamm_cl.config.cards import card_names, load_card, scenario_names
from lamm_cl.config.schema import Scenario
from lamm_cl.data import catalogue

REAL = ("docs/library.md", "docs/avalanche.md")
ELSEWHERE = ("make", "pip", "ray", "export", "srun", ".", "tensorboard", "pytest")  # what a block may call that is not ours


@pytest.fixture
def folder(tmp_path, tmp_path_factory, monkeypatch):
    """Where a reader of a page sits: a checkout without results of his own, with a folder of images and an image."""
    cache = tmp_path_factory.getbasetemp() / "cache of docs"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenarios").symlink_to(manual.TOP / "scenarios")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "reference").symlink_to(manual.TOP / "results" / "reference")
    digits = catalogue.load("digits", None, cache / "lamm-cl").test
    for c, name in enumerate(("zero", "one", "two", "three")):
        (tmp_path / "my-data" / name).mkdir(parents=True)
        for i, at in enumerate(np.flatnonzero(digits.labels == c)[:4]):
            Image.fromarray(digits.images[at]).save(tmp_path / "my-data" / name / f"{i}.png")
    shutil.copy(tmp_path / "my-data" / "three" / "0.png", tmp_path / "image.png")
    return tmp_path


@pytest.fixture
def playing(monkeypatch):
    """Training of no time, and no figures at the end of a sweep: tests/test_cli.py has those."""
    monkeypatch.setitem(sys.modules, "lamm_cl.bench.speed", played.estimated()["lamm_cl.bench.speed"])
    monkeypatch.setattr(doors, "train", played.train)
    monkeypatch.setattr(running, "_derive", lambda *_: 0)


def call(words: list[str]) -> None:
    """A line of a shell block."""
    if words[0] != "lamm-cl":
        assert words[0] in ("cp",), f"{words}: not known to the test"
        subprocess.run(words, check=True)
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        status = main.main(words[1:])
    except SystemExit as end:  # --version, --help
        status = end.code
    finally:
        signal.signal(signal.SIGTERM, before)
    assert status == 0, shown(words)


def shown(words: list[str]) -> str:
    return " ".join(words)


def run(page: str) -> None:
    names: dict = {"__name__": "page"}
    for block in manual.blocks(page):
        if block.title:
            with open(block.title, "w") as file:
                file.write(block.code)
        elif block.language == "yaml":
            check(block.code)
        elif block.language == "python":
            exec(compile(block.code, page, "exec"), names)
        elif block.language == "sh" and block.runs:
            for words in manual.commands(block.code):
                if words[0] != ".":  # enters the environment
                    call(words)


def check(code: str) -> None:
    """A piece of YAML that is no file: a card, or fields of a scenario."""
    if re.search("^(extends|paper):", code, re.MULTILINE):
        with open("card.yaml", "w") as file:
            file.write(code)
        pieces.check(load_card("card.yaml"))
    else:
        facts = yaml.safe_load(code)
        whole = {"name": "shown", "version": 1, "backbone": {"architecture": "lamm-cl-mini", "weights": "embedded"}}
        whole |= {"datasets": ["digits"], "experiences": 2, "shots": 1, "seeds": [1], "methods": ["lamm"]}
        explained.validated(Scenario, whole | facts, "block")


def parses(words: list[str]) -> None:
    """The command line knows the command and its options, and a scenario that it names; who only names a command may leave out
    what it needs."""
    for missing in ([], ["X"], ["X", "X"], ["X", "-o", "X"]):
        told = io.StringIO()
        try:
            with contextlib.redirect_stderr(told):
                args = main.parser().parse_args([*words[1:], *missing])
            break
        except SystemExit as end:
            if end.code == 0:  # --version, --help
                return
            assert "arguments are required" in told.getvalue(), f"{shown(words)}: {told.getvalue()}"
    else:
        return
    named = [name for name in (getattr(args, "scenario", None),) if isinstance(name, str) and name.islower()]
    assert not [name for name in named if "." not in name and name not in scenario_names()], shown(words)


@pytest.mark.parametrize("page", [page for page in manual.PAGES if page not in REAL])
def test_the_commands_of_a_page_run_as_printed(page, folder, playing):
    run(page)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", REAL)
def test_the_code_of_a_page_on_python_runs_as_printed(page, folder):
    run(page)


@pytest.mark.parametrize("page", manual.PAGES)
def test_what_is_not_run_and_what_stands_in_sentences_is_still_a_command(page):
    for block in manual.blocks(page):
        assert block.language in ("sh", "python", "yaml", "text"), f"{page}: a block of {block.language or 'nothing'}"
        for words in manual.commands(block.code) if block.language == "sh" and not block.runs else ():
            assert words[0] in ("lamm-cl", *ELSEWHERE), words
            if "lamm-cl" in words:
                parses(words[words.index("lamm-cl") :])
            if words[0] == "make":
                assert re.search(rf"^{words[1]}:", (manual.TOP / "Makefile").read_text(), re.MULTILINE), words
    for command in manual.spoken(page):
        parses(command.replace(" ...", "").split())


@pytest.mark.parametrize("page", manual.PAGES)
def test_what_a_page_links_to_exists(page):
    for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", (manual.TOP / page).read_text()):
        assert (manual.TOP / page).parent.joinpath(link).exists(), link


def test_the_pages_on_python_name_every_public_name():
    import lamm_cl

    text = "".join((manual.TOP / page).read_text() for page in REAL)
    assert not [name for name in lamm_cl.__all__ if name != "__version__" and name not in text]


@pytest.mark.filterwarnings("ignore")
def test_the_notebook_prints_what_stands_in_it(folder):
    """Numbers to an image or two: another machine may round otherwise."""
    names = {"__name__": "notebook"}
    for cell in notebook.cells():
        if cell["cell_type"] == "code":
            now, then = (json.dumps(outputs) for outputs in (notebook.run("".join(cell["source"]), names), cell["outputs"]))
            if "image/png" in then:
                assert "image/png" in now
                continue
            numbers = r"-?\d+\.\d*|(?<= )\d+(?= )"
            words = [re.sub(r"[\s\"\\n,-]+|" + numbers, " ", re.sub(r'"execution_count": \w+', "", text)) for text in (now, then)]
            assert words[0] == words[1]
            found = [np.array(re.findall(numbers, text), float) for text in (now, then)]
            np.testing.assert_allclose(*found, atol=2)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as `make docs` builds it: strictly, so that a broken link is an error."""
    pytest.importorskip("material", reason="the extra lamm-cl[docs] is not installed")
    where = tmp_path_factory.mktemp("site")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(manual.TOP)}
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(where)]
    done = subprocess.run(command, cwd=manual.TOP, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return where


def test_the_site_builds_without_a_broken_link_and_has_a_page_for_every_card_and_command(site):
    index = (site / "methods" / "index.html").read_text()
    for key in card_names():
        assert f'href="{quote(key)}.html"' in index and (site / "methods" / f"{key}.html").is_file()
    commands = (site / "commands.html").read_text()
    assert all(f"lamm-cl {name}" in commands for name in ("run", "data check", "cache export", "verify"))


def test_a_page_of_a_card_has_equations_numbers_with_sources_departures_and_what_was_published(site):
    page = (site / "methods" / "lamm.html").read_text()
    numbers = ("training.lr", "0.002", "configs/trainers/CoOp/vit_b16_ep50_ctxv1.yaml")
    for part in ("held near its word in three spaces", *numbers, "One stream: the label vectors", "84.14"):
        assert part in page, part


def test_the_site_needs_no_network(site):
    """What a browser loads by itself: scripts, styles, images, fonts."""
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe|source|link)\b[^>]*\s(?:src|href)="?([^\s">]+)', page.read_text())
        assert loaded and not [each for each in loaded if re.match(r"(https?:)?//", each)], page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", sheet.read_text()), sheet.name
