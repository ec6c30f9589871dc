"""What the README tells people to write works as written."""

import re
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from generated import tiny_clip

from lamm_cl import methods
from lamm_cl.config.cards import load_scenario
from lamm_cl.config.schema import Card
from lamm_cl.learner.build import build
from lamm_cl.learner.shown import Images

README = (Path(__file__).parent.parent / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
YAML = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)


def test_the_worked_example_of_a_method_runs(tmp_path, monkeypatch):
    (code,) = PYTHON
    (tmp_path / "near.py").write_text(code)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    (card,) = (yaml.safe_load(text) for text in YAML if text.startswith("name: Near"))
    names = ["red", "green", "blue"]
    model = build(Card(key="near", **card), tiny_clip(), names, [range(0, 2), range(2, 3)], template="a {}.")
    model.train()
    for i in range(2):
        model.begin(i)
        x = Images(frozen=F.normalize(torch.randn(2, 16, generator=torch.Generator().manual_seed(0)), dim=-1))
        _, terms = model.loss(x, torch.tensor([2 * i, 2 * i]))
        sum(terms.values()).backward()
        assert terms["near"] > 0 and model.context.v.grad.abs().sum() > 0
    sys.modules.pop("lamm_cl.methods.near")


def test_the_example_scenario_is_valid(tmp_path):
    (text,) = (text for text in YAML if text.startswith("# my.yaml"))
    (tmp_path / "my.yaml").write_text(text)
    assert load_scenario(tmp_path / "my.yaml").name == "my"


@pytest.mark.parametrize("path", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_what_the_readme_links_to_exists(path):
    assert (Path(__file__).parent.parent / path).exists()
