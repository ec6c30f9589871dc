"""The generated inputs of tests/fidelity_heads/README.md, as a piece observes them."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from generated import fill
from torch import Tensor

from lamm_cl.config.schema import Card
from lamm_cl.learner.build import piece
from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import Head
from lamm_cl.learner.shown import Experience, Images
from lamm_cl.towers.clip import Prompts

READERS: dict = {}


@dataclass
class Shown:
    """Generated features in place of an experience's images through the frozen tower."""

    raw: Tensor
    y: Tensor
    views: dict[int, Tensor] = field(default_factory=dict)
    val: "Shown | None" = None
    trunk: Tensor | None = None
    first: int = 0  # of the split's positions

    def images(self, at: Tensor | slice = slice(None)) -> Images:
        """What a step brings of them."""
        trunk = None if self.trunk is None else self.trunk[at]
        return Images(frozen=self.unit[at], raw=self.raw[at], trunk=trunk, ids=self.ids[at])

    @property
    def unit(self) -> Tensor:
        return F.normalize(self.raw, dim=-1)

    @property
    def ids(self) -> Tensor:
        return self.first + torch.arange(len(self.y))

    def view(self, k: int, scale: tuple[float, float] = (0.08, 1.0)) -> "Shown":
        return Shown(self.views[k], self.y)


@dataclass
class Inputs:
    """What a case's `inputs` say."""

    given: dict
    salt: str

    def __post_init__(self):
        self.C, self.D = self.given["num_classes"], self.given["dim"]
        ends = np.cumsum(self.given["classes"]).tolist()
        self.experiences = [range(end - n, end) for n, end in zip(self.given["classes"], ends)]

    def made(self, name: str, shape, std: float) -> np.ndarray:
        return fill(f"{self.given['key']}.{name}", shape, std, 0.0, self.salt).numpy().astype(np.float64)

    def features(self, part: str, labels: np.ndarray) -> Tensor:
        g, C, D, n = self.given, self.C, self.D, len(labels)
        z = self.made(part, (n, D), g["noise"]) * np.exp(self.made("scale", (D,), g["tilt"]))
        z = z * np.exp(self.made("classscale", (C, D), g["classtilt"]))[labels]
        x = self.made("base", (D,), g["base"]) + self.made("centers", (C, D), g["spread"])[labels]
        x = x + z @ (np.eye(D) + self.made("mix", (D, D), g["mix"] * D**-0.5))
        x = np.abs(x) if g.get("positive") else x
        x = x / np.sqrt((x * x).sum(1, keepdims=True))
        if g["norms"] == "raw":
            x = x * 10.0 * np.exp(self.made(f"{part}.norm", (n,), 0.3))[:, None]
        return torch.from_numpy(x.astype(np.float32))

    def texts(self) -> Tensor:
        """(C, D), unit."""
        g = self.given
        x = self.made("textbase", (self.D,), 1.0) + self.made("centers", (self.C, self.D), g["spread"])
        x = x + self.made("text", (self.C, self.D), g["textnoise"])
        return torch.from_numpy((x / np.sqrt((x * x).sum(1, keepdims=True))).astype(np.float32))

    def by_class(self, t: int) -> np.ndarray:
        mine, per = self.experiences[t], self.given["per_class"]
        return np.repeat(np.array(mine), per[mine.start : mine.stop] if isinstance(per, list) else per)

    def permuted(self, t: int) -> np.ndarray:
        y = self.by_class(t)
        return y[np.random.RandomState(self.given["order_seed"] + t).permutation(len(y))]

    def train(self, t: int) -> Shown:
        y = self.permuted(t)
        return Shown(self.features(f"train{t}", y), torch.from_numpy(y))

    def whole(self, part: str) -> Shown:
        """All classes: part is test or val."""
        y = np.repeat(np.arange(self.C), self.given[f"{part}_per_class"])
        return Shown(self.features(part, y), torch.from_numpy(y))

    def matches(self, case: dict) -> None:
        """The inputs are those that the numbers were made of."""
        probe, order = case["input_probe"], case["label_order"]
        t = int(probe["part"][-1]) if probe["part"][-1].isdigit() and probe["part"].startswith(("train", "view0.exp")) else 0
        labels = self.permuted(t) if order == "permuted" else self.by_class(t)
        x = self.features(probe["part"], labels).double()
        assert labels[: len(probe["labels_first"])].tolist() == probe["labels_first"]
        assert x.flatten()[: len(probe["first"])].tolist() == pytest.approx(probe["first"], abs=1e-6)
        assert x.sum().item() == pytest.approx(probe["sum"], rel=1e-6, abs=1e-4)
        assert x.abs().sum().item() == pytest.approx(probe["abs_sum"], rel=1e-6)


def inputs_of(case: dict, cases: dict) -> Inputs:
    inputs = Inputs(case["inputs"], cases["salt"])
    inputs.matches(case)
    return inputs


def head_of(inputs: Inputs, use: str, **options) -> Head:
    """The head that an ordinary card describes, on a tower of which heads only know the width."""
    card = Card(key="case", name="case", paper="-", head={"use": use, **options}, trainable="", provenance={})
    tower = SimpleNamespace(D=inputs.D, device=torch.device("cpu"))
    given = dict(clip=tower, names=[f"class {c}" for c in range(inputs.C)], template="a photo of a {}.", dataset="", shots=1,
                 experiences=inputs.experiences)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return piece(card, "head", given)


@torch.no_grad()
def learn(head: Head, t: int, classes: range, shown: Shown) -> None:
    """One experience, moment by moment."""
    e = Experience(t, classes)
    head.begin(e)
    head.observe(e, shown)
    head.finish(None, e)


@torch.no_grad()
def logits(head: Head, raw: Tensor, classes: range, text: Tensor | None = None) -> Tensor:
    unit = F.normalize(raw, dim=-1)
    out = Output(Images(frozen=unit, raw=raw), unit, text, Prompts(), classes, torch.tensor(100.0), raw=raw)
    return head(out)


def subsample(x: Tensor, m: int) -> Tensor:
    """`X_sub` of README.md: m elements of the flattened X."""
    flat = x.flatten()
    return flat[[k * len(flat) // m for k in range(m)]]
