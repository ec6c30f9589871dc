"""What the manual tells people to write works as written."""

import re

import manual
import torch
import torch.nn.functional as F
from generated import tiny_clip

from lamm_cl.config.cards import load_card, load_scenario
from lamm_cl.learner.build import build
from lamm_cl.learner.shown import Images


def test_the_worked_example_of_a_method_runs(tmp_path):
    for name in ("kgcoop.py", "mine.yaml"):
        (tmp_path / name).write_text(manual.titled("docs/own-method.md", name))
    names = ["red", "green", "blue"]
    model = build(load_card(tmp_path / "mine.yaml"), tiny_clip(), names, [range(0, 2), range(2, 3)])
    model.train()
    with torch.no_grad():
        model.context.v += 0.1 * model.context.v.flip(0)  # it starts as the words that it is kept near
    for i in range(2):
        model.begin(i)
        x = Images(frozen=F.normalize(torch.randn(2, 16, generator=torch.Generator().manual_seed(0)), dim=-1))
        _, terms = model.loss(x, torch.tensor([2 * i, 2 * i]))
        sum(terms.values()).backward()
        assert terms["knowledge"] > 0 and model.context.v.grad.abs().sum() > 0


def test_the_example_scenario_is_valid(tmp_path):
    (tmp_path / "my.yaml").write_text(manual.titled("docs/own-method.md", "my.yaml"))
    assert load_scenario(tmp_path / "my.yaml").name == "my"


def test_a_newcomer_reads_the_readme_in_five_minutes():
    """At 250 words a minute; a table is looked at."""
    lines = (manual.TOP / "README.md").read_text().splitlines()
    assert len(" ".join(line for line in lines if not line.startswith("|")).split()) <= 1250


def test_the_readmes_comparisons_are_those_of_the_shipped_results(monkeypatch):
    monkeypatch.syspath_prepend(manual.TOP / "docs" / "hooks")
    import pages

    for table in (pages.class_incremental(), pages.prompt_learners()):
        assert table in (manual.TOP / "README.md").read_text()


def test_the_map_names_every_wing():
    section = (manual.TOP / "CONTRIBUTING.md").read_text().split("## Where things are")[1].split("##")[0]
    wings = {path.parent.name for path in (manual.TOP / "lamm_cl").glob("*/__init__.py")}
    assert wings <= set(re.findall(r"`(\w+)/`", section))
