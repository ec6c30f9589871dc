"""ENGINE (Zhou et al., ICCV 2025): linear maps for each experience, texts of what sets classes apart, Gaussians, re-ranking.

f = unit(sum_i A_i x),  t_c = unit(sum_i B_i s_c)

x, s_c: raw image and text features;  A_i, B_i: maps with bias, learned in experience i and frozen behind it.  A step shows f of
its images and of every old class, mu_c + spread z there (mu_c: mean of x of class c, z standard normal), with t of each one's
class: every row is another, whatever its class (models/engine.py 136-152).  With CE to the diagonal

clip   (CE(scale f t^T) + CE(scale t f^T)) / 2
image  CE(f a^T)    a: unit feature of the image with pixel noise;  of the batch's images alone
text   CE(t r^T)    r: unit feature of "NAME with DESCRIPTION", a description drawn of those of the class

y_c = stat g_c + (1 - stat) ((1 - rerank) f . t_c + rerank k_c)

g: Gaussians of the feature before the projection (bofa.Averaged), unit over the classes;  k_c: of the `top` classes by f . t, x's
cosine with the mean of "NAME with DESCRIPTION" of c against each of the others; 0 for all other classes.

Descriptions are a JSON file of one's own, {class: {other class: [text, ..]}}; without it both parts that read texts are left out.
Here: a pair's descriptions count by their mean, and training draws among differences to classes seen.  Released: a draw of each
pair, three times, in evaluation too, and differences to classes of experiences to come.
"""

import hashlib
import json
from itertools import permutations
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.files import read_regular
from lamm_cl.learner.closed import class_means
from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import Few, Head, Weight
from lamm_cl.learner.shown import Experience, Frozen
from lamm_cl.learner.text import FixedTexts
from lamm_cl.methods.bofa import Averaged, Positive, Share
from lamm_cl.seeds import derive
from lamm_cl.towers.clip import FrozenCLIP

LARGEST = 2**28  # bytes of a file of descriptions
TOGETHER = 256  # texts through the tower at a time


class Descriptions:
    """Of a file: what sets a class apart from each other one.  Names are looked up whatever their case and underscores."""

    def __init__(self, path: str, names: list[str]):
        self.path, self.names = path, names
        content = _read(path)
        self.digest = torch.tensor(list(hashlib.sha256(content).digest()), dtype=torch.uint8)
        try:
            told = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: no JSON ({' '.join(str(error).split())[:100]})") from None
        if not isinstance(told, dict) or not all(isinstance(each, dict) for each in told.values()):
            raise UserError(f"{path}: expected {{class: {{other class: [text, ..]}}}}")
        self.told = {_plain(a): {_plain(b): texts for b, texts in others.items()} for a, others in told.items()}
        for name in names:
            if _plain(name) not in self.told:
                raise UserError(f"{path}: nothing of {name!r}{did_you_mean(name, told)}")
        for a, b in permutations(range(len(names)), 2):
            self.against(a, b)

    def against(self, a: int, b: int) -> list[str]:
        """What sets class a apart from class b."""
        name, other = self.names[a], self.names[b]
        texts = self.told[_plain(name)].get(_plain(other))
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{self.path}: expected a list of texts of {name!r} against {other!r}")
        return [f"{name} with {text.lower()}" for text in texts]


def _plain(name: str) -> str:
    return name.replace("_", " ").casefold()


def _read(path: str) -> bytes:
    try:
        return read_regular(Path(path).expanduser(), LARGEST)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"texts: {path[:200]!r}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def contrast(x: Tensor, y: Tensor) -> Tensor:
    """CE of x y^T (n, n) to the diagonal."""
    return F.cross_entropy(x @ y.T, torch.arange(len(x), device=x.device))


class Engine(Head):
    """scale: of cosines in the clip term;  image, text: weights of the other terms;  noise: of pixels, as they are preprocessed;
    spread: of the old classes' features;  sample: how many old classes a step shows, 0 for each once;  texts: the file.
    """

    needs = frozenset({"raw", "trunk", "text_each"})
    draws = True
    sums = ("kept",)
    clamp = False
    rounds = 1

    def __init__(self, clip: FrozenCLIP, *, names: list[str], scale: Positive, stat: Share, image: Weight, text: Weight,
                 rerank: Share, top: Few = 5, spread: Weight = 0.25, noise: Positive = 0.25,
                 sample: Annotated[int, Field(ge=0, le=1000)] = 0, texts: str | None = None):  # fmt: skip
        super().__init__()
        self.clip, self.scale, self.stat, self.weight, self.top = clip, scale, stat, {"image": image, "text": text}, top
        self.rerank, self.spread, self.noise, self.sample = rerank, spread, noise, sample
        self.images, self.texts, self.names = nn.ModuleList(), nn.ModuleList(), names
        self.asked = 0  # how often for scores since an experience was learned
        self.seed = int(torch.randint(2**62, ()))
        self.register_buffer("mu", torch.empty(0, clip.D))
        self.register_buffer("w", torch.empty(0, 0))  # of the Gaussians, (C, w)
        self.register_buffer("b", torch.empty(0))
        self.register_buffer("epoch", torch.tensor(0))
        self.described = Descriptions(texts, names) if texts is not None else None
        if self.described is not None:
            self.register_buffer("file", self.described.digest.clone())
            self.register_buffer("pairs", torch.empty(0, 0, 0, clip.D))  # of a against b, their mean or each (C, C, m, D)
            self.register_buffer("counts", torch.empty(0, 0, dtype=torch.int64))  # how many there are
        self.gaussians: Averaged | None = None
        self.e: Experience | None = None
        self.frozen: Frozen | None = None
        self.view: Tensor | None = None  # unit features of this experience's images with the noise of this epoch
        self.told: dict[tuple[int, int], Tensor] = {}  # a, b -> features of each description (m, D)
        self.drawable: dict[int, Tensor] = {}  # a -> those that training draws among (n, D)
        self.step = 0  # of this epoch

    @property
    def kept(self) -> list[Tensor]:
        return [self.gaussians.m, self.gaussians.P] if self.gaussians else []

    # --- an experience ----------------------------------------------------------------------------------------------------

    def begin(self, e: Experience) -> None:
        self.e, self.view, self.step = e, None, 0
        self.epoch.zero_()
        for maps in (self.images, self.texts):
            maps.requires_grad_(False)
            maps.append(nn.Linear(self.clip.D, self.clip.D))

    def observe(self, e: Experience, frozen: Frozen) -> None:
        self.frozen = frozen
        new = Averaged.of(F.normalize(frozen.trunk, dim=-1), frozen.y, e.classes)
        self.gaussians = new if self.gaussians is None else self.gaussians.plus(new)
        self.w, self.b = self.gaussians.linear
        self.mu = torch.cat([self.mu[: e.classes.start].to(frozen.raw), class_means(frozen.raw, frozen.y, e.classes).float()])
        if self.described is not None:
            self.read(self.read_from(e))
            self.keep_pairs(e.classes.stop)

    def read_from(self, e: Experience) -> range:
        """Whose differences are read by now."""
        return e.seen

    def read(self, classes: range) -> None:
        """Features of what sets each of the classes apart from each other one."""
        for a in classes:
            others = [b for b in classes if b != a and (a, b) not in self.told]
            lists = [self.described.against(a, b) for b in others]
            if lists:
                features = self.encoded([text for texts in lists for text in texts])
                self.told |= {(a, b): x for b, x in zip(others, features.split(list(map(len, lists))))}
                self.drawable[a] = torch.cat([self.drawable.get(a, features[:0]), features])

    def encoded(self, texts: list[str]) -> Tensor:
        """Raw text features (n, D)."""
        parts = [texts[i : i + TOGETHER] for i in range(0, len(texts), TOGETHER)]
        return torch.cat([FixedTexts(self.clip, part, ["{}"]).raw for part in parts])

    def keep_pairs(self, C: int) -> None:
        told = {pair: self.compared(features) for pair, features in self.told.items() if max(pair) < C}
        self.counts = torch.zeros(C, C, dtype=torch.int64, device=self.mu.device)
        self.pairs = self.mu.new_zeros(C, C, max(map(len, told.values()), default=0), self.clip.D)
        for (a, b), features in told.items():
            self.counts[a, b] = len(features)
            self.pairs[a, b, : len(features)] = features

    def compared(self, features: Tensor) -> Tensor:
        """Of a pair's descriptions (m, D), what re-ranking is about."""
        return features.mean(dim=0, keepdim=True)

    def after_epoch(self, model: nn.Module, epoch: int, epochs: int) -> None:
        self.epoch += 1
        self.step, self.view = 0, None

    def finish(self, model: nn.Module, e: Experience) -> None:
        self.frozen = None
        if self.described is not None and not torch.equal(self.file, self.described.digest.to(self.file)):
            raise UserError(f"{self.described.path}: is not the file that this run began with")

    # --- a step -----------------------------------------------------------------------------------------------------------

    def terms(self, out: Output, targets: Tensor) -> dict[str, Tensor]:
        if out.classes.start:
            raise UserError("ENGINE: old classes stand in its loss: expected label_space: seen")
        old = torch.tensor(self.old_classes(), dtype=torch.int64, device=targets.device)
        f = out.raw
        if len(old):
            f = torch.cat([f, self.mu[old] + self.spread * self.normal(len(old))])
        f, y = mapped(self.images, f), torch.cat([targets, old])
        t = mapped(self.texts, out.text_each[0])[y]
        terms = {"cross_entropy": (contrast(self.scale * f, t) + contrast(self.scale * t, f)) / 2}
        if self.weight["image"]:
            shown, a = self.noisy(out)
            if shown.any():
                terms["image"] = self.weight["image"] * contrast(f[: len(targets)][shown], a)
        if self.weight["text"] and self.told:
            terms["text"] = self.weight["text"] * contrast(t, F.normalize(self.drawn(y.tolist()), dim=-1))
        self.step += 1
        return terms

    def old_classes(self) -> list[int]:
        """Those that a step shows."""
        old = self.e.classes.start
        if not self.sample or not old:
            return list(range(old))
        return torch.randint(old, (self.sample,)).tolist()

    def normal(self, n: int) -> Tensor:
        return torch.randn(n, self.clip.D, device=self.mu.device)

    def noisy(self, out: Output) -> tuple[Tensor, Tensor]:
        """Which images of the step are this experience's (B,) bool, and their unit features (n, D) with noise."""
        if out.x.ids is None:
            raise UserError("ENGINE: its image term must know which images a step shows: expected image: 0, or a run of ours")
        if self.view is None:
            self.view = self.frozen.noisy(int(self.epoch), self.noise, self.clamp).unit
        ids, order = self.frozen.ids.to(out.x.ids).sort()
        at = torch.searchsorted(ids, out.x.ids).clamp(max=len(ids) - 1)
        shown = ids[at] == out.x.ids
        return shown, self.view[order[at[shown]]]

    def drawn(self, classes: list[int]) -> Tensor:
        """A description of each class (n, D)."""
        return torch.stack([self.drawable[a][self.pick(d, len(self.drawable[a]))] for d, a in enumerate(classes)])

    def pick(self, d: int, n: int) -> int:
        """Of n, for the d-th row."""
        return int(torch.randint(n, ()))

    # --- scores -----------------------------------------------------------------------------------------------------------

    def forward(self, out: Output) -> Tensor:
        if self.training:
            return self.scale * mapped(self.images, out.raw) @ mapped(self.texts, out.text_each[0]).T
        gaussian, adapted, ranked = self.scores(out)
        return self.mixed(gaussian, adapted, ranked)

    def mixed(self, gaussian: Tensor, adapted: Tensor, ranked: Tensor) -> Tensor:
        rerank = self.rerank if self.described is not None else 0.0
        return self.stat * gaussian + (1 - self.stat) * (rerank * ranked + (1 - rerank) * adapted)

    def scores(self, out: Output) -> tuple[Tensor, Tensor, Tensor]:
        """g, f . t and k, each (B, c); g and k are 0 for classes that are not learned, and know of those that are alone."""
        assert out.classes.start == 0
        text = F.normalize(torch.stack([mapped(self.texts, each) for each in out.text_each]).mean(dim=0), dim=-1)
        adapted = mapped(self.images, out.raw) @ text.T
        known = min(len(self.mu), len(out.classes))
        if not known:
            return torch.zeros_like(adapted), adapted, torch.zeros_like(adapted)
        gaussian = F.normalize(F.normalize(out.trunk, dim=-1) @ self.w.T + self.b, dim=1)[:, :known]
        ranked = self.ranked(adapted[:, :known], out.image)
        rest = len(out.classes) - known
        return F.pad(gaussian, (0, rest)), adapted, F.pad(ranked, (0, rest))

    def ranked(self, adapted: Tensor, image: Tensor) -> Tensor:
        """Scores (B, C) of the classes learned, unit frozen features (B, D) -> (B, C)."""
        ranked, n = torch.zeros_like(adapted), min(self.top, adapted.shape[1])
        if self.described is None or n < 2:
            return ranked
        top = adapted.topk(n, dim=1).indices
        others = torch.tensor([[j for j in range(n) if j != i] for i in range(n)], device=top.device)
        a, b = top.unsqueeze(2).expand(-1, -1, n - 1), top[:, others]  # (B, n, n - 1)
        told = (self.pairs[a, b, self.which(self.counts[a, b], r)] for r in range(self.rounds))
        scores = [F.normalize(each.mean(dim=2), dim=-1) @ image.unsqueeze(2) for each in told]
        return ranked.scatter(1, top, torch.stack(scores).mean(dim=0).squeeze(2))

    def which(self, counts: Tensor, r: int) -> Tensor:
        """One of so many, (B, n, n - 1), in round r."""
        return torch.zeros_like(counts)


def summed(maps: nn.ModuleList, x: Tensor) -> Tensor:
    """(n, D) -> (n, D): the sum of all experiences' maps; as it is before there are any."""
    return sum((each(x) for each in maps), torch.zeros_like(x)) if len(maps) else x


def mapped(maps: nn.ModuleList, x: Tensor) -> Tensor:
    """The same, unit."""
    return F.normalize(summed(maps, x), dim=-1)


class Released(Engine):
    """Descriptions are drawn in evaluation too, by position in the batch; old classes that a step does not draw are not shown
    again in its epoch; pixels are cut off below the channel's mean.
    """

    clamp = True
    rounds = 3
    left: list[int] = []  # old classes

    def read_from(self, e: Experience) -> range:
        return range(len(self.names))

    def compared(self, features: Tensor) -> Tensor:
        return features

    def finish(self, model: nn.Module, e: Experience) -> None:
        super().finish(model, e)
        self.asked = 0

    def old_classes(self) -> list[int]:
        if self.step == 0:
            self.left = self.order(self.e.classes.start)
        if self.sample and self.left:
            self.left = [self.left[i] for i in self.drawn_places(len(self.left))]
        return self.left

    def order(self, old: int) -> list[int]:
        """Of the old classes in an epoch; without `sample` it decides nothing."""
        return torch.randperm(old).tolist()

    def drawn_places(self, n: int) -> list[int]:
        return torch.randint(n, (self.sample,)).tolist()

    def which(self, counts: Tensor, r: int) -> Tensor:
        draw = torch.Generator().manual_seed(derive(self.seed, "re-ranking", len(self.mu), self.asked))
        self.asked += 1
        return (torch.rand(counts.shape, generator=draw).to(counts.device) * counts).long()
