"""Every code block of docs/library.md and docs/avalanche.md runs as printed, one after another."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lamm_cl.config import pieces
from lamm_cl.config.cards import load_card
from lamm_cl.data import catalogue

DOCS = Path(__file__).parent.parent / "docs"


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, code) of a page."""
    return re.findall(r"^```(\w+)\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", ["library.md", "avalanche.md"])
def test_the_code_of_a_page_runs_as_printed(page, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache of docs"))
    digits = catalogue.load("digits", None, tmp_path_factory.getbasetemp() / "cache of docs" / "lamm-cl").test
    Image.fromarray(digits.images[int(np.flatnonzero(digits.labels == 3)[0])]).save("image.png")
    names: dict = {"__name__": "page"}
    for language, code in blocks(page):
        if language == "python":
            exec(compile(code, page, "exec"), names)
            continue
        if language == "yaml":
            (tmp_path / "card.yaml").write_text(code)
            pieces.check(load_card(tmp_path / "card.yaml"))
            continue
        assert language == "sh"
        for line in code.splitlines():
            command = line.replace("lamm-cl", f"{sys.executable} -m lamm_cl", 1)
            subprocess.run(command, shell=True, check=True, capture_output=True)


@pytest.mark.parametrize("page", ["library.md", "avalanche.md", "own-data.md", "own-method.md"])
def test_what_a_page_links_to_exists(page):
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", (DOCS / page).read_text()):
        assert (DOCS / link).exists()


def test_the_pages_name_every_public_name():
    import lamm_cl

    text = "".join((DOCS / page).read_text() for page in ("library.md", "avalanche.md"))
    assert not [name for name in lamm_cl.__all__ if name != "__version__" and name not in text]
