"""What the README tells people to write works as written."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from generated import tiny_clip

from lamm_cl.config.cards import load_card, load_scenario
from lamm_cl.learner.build import build
from lamm_cl.learner.shown import Images

README = (Path(__file__).parent.parent / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
YAML = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)


def test_the_worked_example_of_a_method_runs(tmp_path):
    (code,) = PYTHON
    (tmp_path / "kgcoop.py").write_text(code)
    (card,) = (text for text in YAML if text.startswith("name: KgCoOp"))
    (tmp_path / "mine.yaml").write_text(card)
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
    (text,) = (text for text in YAML if text.startswith("# my.yaml"))
    (tmp_path / "my.yaml").write_text(text)
    assert load_scenario(tmp_path / "my.yaml").name == "my"


@pytest.mark.parametrize("path", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_what_the_readme_links_to_exists(path):
    assert (Path(__file__).parent.parent / path).exists()


def test_the_map_names_every_wing():
    section = README.split("## Where things are")[1].split("##")[0]
    wings = {path.parent.name for path in (Path(__file__).parent.parent / "lamm_cl").glob("*/__init__.py")}
    assert wings <= set(re.findall(r"`(\w+)/`", section))
