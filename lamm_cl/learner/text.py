"""Text features of classes: where things stand in their prompts, their way through the text tower, and what may be kept."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamm_cl.learner.pieces import ContextLearner, Labels, Tower
from lamm_cl.learner.prompts import Atom, filled, in_template, of_class
from lamm_cl.towers.clip import FrozenCLIP, Prompts
from lamm_cl.towers.transformer import Prefix


class Frame(nn.Module):
    """The prompts of C classes under one template: their frozen tokens, and the slots for context and label vectors.

    fixed (C, L, d): the vectors of the tokens ids (C, L);  slot (C, L): -1 for those, else which of [context (n) | labels (k)].
    L reaches to the last end of text (EOT); behind it there is only padding.
    """

    end: Tensor  # (C,)
    slot: Tensor
    ids: Tensor
    fixed: Tensor

    def __init__(self, clip: FrozenCLIP, names: list[str], template: str, context: ContextLearner, labels: Labels,
                 tower: Tower | None = None):  # fmt: skip
        super().__init__()
        self.additions = [tower] if tower else []  # in a list: what is added belongs to the learner, not to a frame
        self.clip, self.n, self.shared = clip, context.n, context.shared
        self.tokens = clip.tokenize(filled(template, names))  # (C, 77)
        rows, lengths = [], dict[str, int]()
        for c, name in enumerate(names):
            front = of_class(template, c).partition("{}")[0]
            before = lengths[front] = lengths[front] if front in lengths else len(clip.words(front))
            phrase = [Atom("context", i) for i in range(self.n)]
            phrase += [Atom("token", 1 + i) for i in range(self.n, before)]
            spoken = [Atom("token", 1 + before + i) for i in range(len(clip.words(name)))]
            rest = range(1 + before + len(spoken), self.tokens.shape[1])
            row = [Atom("token", 0), *context.arrange(*labels.place(phrase, spoken)), *(Atom("token", i) for i in rest)]
            rows.append(row + [row[-1]] * (self.tokens.shape[1] - len(row)))  # a shortened name leaves more padding
        ends = self.tokens.argmax(dim=-1).tolist()
        self.eot = [row.index(Atom("token", end)) for row, end in zip(rows, ends)]
        L = max(self.eot) + 1
        slot = [[-1 if a.kind == "token" else a.at + self.n * (a.kind == "label") for a in row[:L]] for row in rows]
        at = torch.tensor([[a.at if a.kind == "token" else 0 for a in row[:L]] for row in rows], device=clip.device)
        ids = self.tokens.gather(1, at)
        self.register_buffer("end", torch.tensor(self.eot, device=clip.device), persistent=False)
        self.register_buffer("slot", torch.tensor(slot, device=clip.device), persistent=False)
        self.register_buffer("ids", ids, persistent=False)
        self.register_buffer("fixed", clip.embed(ids).detach(), persistent=False)
        self.learns = tower is not None and tower.own is not None  # the tokens' vectors too
        self.P = self._shared_prefix(ids)
        self.constant_prefix: Prefix | None = None

    def _shared_prefix(self, ids: Tensor) -> int:
        """How many leading positions are the same in every prompt; EOT, asked for per class, never counts."""
        common = (ids == ids[0]) & (self.slot == self.slot[0])
        common &= self.slot < (self.n if self.shared else 0)
        return min(int(common.all(dim=0).int().cumprod(0).sum()), min(self.eot))

    def assemble(self, context: Tensor | None, labels: Tensor | None, classes: range, start: int, stop: int) -> Tensor:
        """Positions start .. stop-1 of the prompts of `classes` -> (c, s, d), or (B, c, s, d) with a context per image.

        context (1, n, d), (c, n, d) or (B, 1, n, d);  labels (c, k, d).
        """
        at = slice(classes.start, classes.stop), slice(start, stop)
        fixed, slot = self.clip.embed(self.ids[at]) if self.learns else self.fixed[at], self.slot[at]
        given = [v for v in (context, labels) if v is not None]
        if not given:
            return fixed
        batch = (*given[0].shape[:-3], len(classes))
        vectors = torch.cat([v.expand(*batch, *v.shape[-2:]) for v in given], dim=-2)
        filled = vectors.gather(-2, slot.clamp(min=0).unsqueeze(-1).expand(*batch, *slot.shape[1:], vectors.shape[-1]))
        return torch.where(slot.unsqueeze(-1) < 0, fixed, filled)

    def whole(self, context: Tensor | None, labels: Tensor | None, classes: range) -> Tensor:
        """The prompts with their padding (c, 77, d), for the plain tower."""
        prompts = self.assemble(context, labels, classes, 0, self.fixed.shape[1])
        padding = self.clip.embed(self.tokens.new_zeros(1)).expand(len(classes), self.clip.length - prompts.shape[-2], -1)
        return torch.cat([prompts, padding], dim=-2)

    def encode(self, prompts: Prompts, labels: Tensor | None, classes: range) -> Tensor:
        """Unit text features (c, D), or (B, c, D) if the context depends on the image.  The shared prefix runs once."""
        if self._whole:
            return self.read(self.last_tokens(prompts, labels, classes), classes)
        return self._through(self.clip.text, prompts, labels, classes)

    def encode_raw(self, prompts: Prompts, labels: Tensor | None, classes: range) -> Tensor:
        """As `encode` -> features before they are normalised."""
        if self._whole:
            return self.clip.read_raw(self._at_end(self.last_tokens(prompts, labels, classes), classes))
        return self._through(self.clip.text_raw, prompts, labels, classes)

    @property
    def _whole(self) -> bool:
        return any(tower.whole_texts for tower in self.additions)

    def _through(self, text: Callable[..., Tensor], prompts: Prompts, labels: Tensor | None, classes: range) -> Tensor:
        stop = 1 + max(self.eot[classes.start : classes.stop])
        suffix = self.assemble(prompts.first, labels, classes, self.P, stop)  # ([B,] c, S, d)
        eot = self.end[classes.start : classes.stop].expand(suffix.shape[:-2])
        z = text(self._prefix(prompts), suffix.flatten(0, -3), eot.flatten(), **self._tower)
        return z.view(*suffix.shape[:-2], -1)

    def _prefix(self, prompts: Prompts) -> Prefix:
        """The shared prefix of one prompt, or of one per image; of a fixed template it never changes."""
        constant = prompts.first is None and not (prompts.deep or prompts.keys_values or self.additions)
        if constant and self.constant_prefix is not None:
            return self.constant_prefix
        context = prompts.first if self.shared else None
        vectors = self.assemble(context, None, range(1), 0, self.P).flatten(0, -3)
        prefix = self.clip.prefix(vectors, prompts.deep, prompts.keys_values, **self._tower)
        if constant:
            self.constant_prefix = prefix
        return prefix

    @property
    def _tower(self) -> dict[str, Tower]:
        return {"tower": self.additions[0]} if self.additions else {}

    def last_tokens(self, prompts: Prompts, labels: Tensor | None, classes: range, padded: bool = True) -> Tensor:
        """The last block's output at all positions (c, L, d): 77, padding included, or up to the end of the longest text."""
        if padded:
            whole = self.whole(prompts.first, labels, classes)
        else:
            whole = self.assemble(prompts.first, labels, classes, 0, 1 + max(self.eot[classes.start : classes.stop]))
        return self.clip.tokens(whole, prompts.deep, prompts.keys_values, **self._tower)

    def read(self, tokens: Tensor, classes: range) -> Tensor:
        """Unit text features (c, D) from the last block's output (c, L, d)."""
        return self.clip.read(self._at_end(tokens, classes))

    def _at_end(self, tokens: Tensor, classes: range) -> Tensor:
        """(c, L, d) -> what stands at the end of text (c, d)."""
        at = torch.arange(len(classes), device=tokens.device)
        return tokens[at, self.end[classes.start : classes.stop]]


class TextFeatures(nn.Module):
    """Text features of classes: frames x labels.  What cannot change is computed once per experience and kept.

    experiences: the classes of each.  A kept entry is valid until `forget`; where gradients are on, only those of `constant`
    experiences are used.
    """

    def __init__(self, frames: list[Frame], labels: Labels, experiences: list[range]):
        super().__init__()
        self.frames = cast(Sequence[Frame], nn.ModuleList(frames))
        self.labels, self.experiences = labels, experiences
        self.kept: dict[range, Tensor] = {}
        self.constant: list[range] = []  # experiences whose features no step of the one being learned can change

    def features(self, prompts: Prompts, classes: range) -> Tensor:
        """Unit text features (c, D), or (B, c, D) if the context depends on the image."""
        wanted = within(self.experiences, classes)
        assert wanted[0].start == classes.start and wanted[-1].stop == classes.stop  # whole experiences
        known = self.constant if torch.is_grad_enabled() else self.experiences
        parts = [self.kept[mine] if mine in self.kept and mine in known else self.encode(prompts, mine) for mine in wanted]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)

    def encode(self, prompts: Prompts, classes: range) -> Tensor:
        prompts, labels = prompts.of(classes), self.labels(classes)
        return mean_direction([frame.encode(prompts, labels, classes) for frame in self.frames])

    @torch.no_grad()
    def keep(self, prompts: Prompts, classes: list[range]) -> None:
        """Compute the features of these experiences now, for all that is asked until they are forgotten."""
        for mine in classes:
            if mine not in self.kept:
                self.kept[mine] = self.encode(prompts, mine)

    def forget(self, classes: list[range]) -> None:
        for mine in classes:
            self.kept.pop(mine, None)


class RawTexts(TextFeatures):
    """As TextFeatures, of features before they are normalised (c, D): under several templates their mean."""

    def encode(self, prompts: Prompts, classes: range) -> Tensor:
        prompts, labels = prompts.of(classes), self.labels(classes)
        return torch.stack([frame.encode_raw(prompts, labels, classes) for frame in self.frames]).mean(dim=0)


class EachText(TextFeatures):
    """As TextFeatures, of features before they are normalised under each of K templates (K, c, D)."""

    def encode(self, prompts: Prompts, classes: range) -> Tensor:
        prompts, labels = prompts.of(classes), self.labels(classes)
        return torch.stack([frame.encode_raw(prompts, labels, classes) for frame in self.frames])


class FixedTexts:
    """What losses and contexts refer to: the frozen tower's features of all classes under hand-written templates.

    Computed once, when first asked for.  Not a module: it is neither trained nor saved.
    """

    def __init__(self, clip: FrozenCLIP, names: list[str], templates: Sequence[str]):
        self.clip, self.names, self.templates = clip, names, templates
        for template in templates:
            in_template(template, "")

    @property
    def tokens(self) -> Tensor:
        """(templates, C, 77)."""
        return torch.stack([self.clip.tokenize(filled(t, self.names)) for t in self.templates])

    @cached_property
    @torch.no_grad()
    def raw(self) -> Tensor:
        """(C, D): the mean over templates, before it is normalised."""
        total = torch.zeros((), device=self.clip.device)
        for template in self.templates:
            frame = Frame(self.clip, self.names, template, ContextLearner(), Labels())
            total = total + frame.encode_raw(Prompts(), None, range(len(self.names)))
        return total / len(self.templates)

    def unit(self, classes: range) -> Tensor:
        """(c, D): its direction."""
        return F.normalize(self.raw[classes.start : classes.stop], dim=-1)


def within(experiences: list[range], classes: range) -> list[range]:
    """Those with some of the classes."""
    return [mine for mine in experiences if mine.start < classes.stop and classes.start < mine.stop]


def mean_direction(features: list[Tensor]) -> Tensor:
    """Unit features under several templates -> their normalised mean."""
    return features[0] if len(features) == 1 else F.normalize(torch.stack(features).mean(dim=0), dim=-1)
