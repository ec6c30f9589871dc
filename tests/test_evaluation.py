"""How a test is cut into batches decides nothing."""

from pathlib import Path

import pytest
import torch
import toy
import yaml

from lamm_cl.training.run import Prepared

CARDS = Path(__file__).parent.parent / "baselines"
DEFAULT = sorted(path.stem for path in CARDS.glob("*.yaml") if "extends" not in yaml.safe_load(path.read_text()))


def learned(tmp_path, key: str) -> Prepared:
    """A run whose model has seen both halves of the classes, and whose parameters are away from where they start."""
    override = toy.shallow(key) | ({"head": toy.NARROW[key]} if key in toy.NARROW else {})
    one = toy.prepared(toy.planned(tmp_path / "run", key, overrides={key: override}), tmp_path / "cache")
    draw = torch.Generator().manual_seed(1)
    for i in range(2):
        one.model.take_up(i, one.sources.observed)
        with torch.no_grad():
            for p in one.model.parameters():
                p += 0.02 * torch.randn(p.shape, generator=draw)
        one.model.finish(i)
    return one


@torch.no_grad()
def scores(one: Prepared, ids: torch.Tensor, size: int) -> torch.Tensor:
    """Of test images in that order, as a test that begins now cuts them: (n, C)."""
    one.model.train()  # forget texts
    one.model.eval()
    return torch.cat([one.model(x) for x in one.sources.test.batches(ids.split(size), 0)])


def apart(one: Prepared) -> tuple[float, float]:
    """How far scores differ at most between ways to cut a test, and what rounding may do."""
    whole = scores(one, ids := torch.arange(len(one.dataset.test)), len(ids))
    turned = torch.randperm(len(ids), generator=torch.Generator().manual_seed(2))
    others = [(scores(one, ids[:9], 1), whole[:9]), (scores(one, ids, 8), whole), (scores(one, turned, 8), whole[turned])]
    largest = whole[whole > torch.finfo(whole.dtype).min].abs().max().item()
    return max((mine - theirs).abs().max().item() for mine, theirs in others), 2e-5 * max(1, largest)


@pytest.mark.parametrize("key", DEFAULT)
def test_the_score_of_an_image_depends_neither_on_its_batch_nor_on_its_place_in_it(tmp_path, key):
    found, rounding = apart(learned(tmp_path, key))

    assert found <= rounding


@pytest.mark.parametrize("key", ["l2p-original", "dualprompt-original"])
def test_in_the_releases_way_the_batch_decides(tmp_path, key):
    """What the default cards are there to avoid."""
    found, rounding = apart(learned(tmp_path, key))

    assert found > 100 * rounding
