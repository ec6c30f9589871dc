"""A method of ours as a module for any Avalanche strategy: tensors in, logits of all classes out."""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
from copy import deepcopy
from functools import reduce

import torch
import torch.nn.functional as F
from avalanche.models import DynamicModule
from torch import Tensor, nn

from lamm_cl.errors import UserError
from lamm_cl.learner.model import Learner
from lamm_cl.learner.output import Output
from lamm_cl.learner.shown import Images
from lamm_cl.training.sources import Sources

OUT = -1e4  # logits out of play: finite, since plugins square them, take softmax of them, or train on old classes


class Module(DynamicModule):
    """x (B, 3, H, W) preprocessed pixels, or (B, D) unit features -> logits (B, C) of all classes of the stream.

    Avalanche's strategies let it grow: before an experience is trained its classes begin and its images are observed; before
    the next test it is finished.  `criterion` holds the method's own loss terms; cross entropy alone leaves them out.
    """

    def __init__(self, learner: Learner, sources: Sources):
        super().__init__()
        if learner.memory is not None:
            raise UserError("this method has a memory of its own, which a strategy of Avalanche would not ask; take one without, "
                            "as coop for coop+replay, and Avalanche's Replay or DER")  # fmt: skip
        self.learner = learner
        self.sources = [sources]
        self.finished = 0
        self.last: Output | None = None
        self.criterion = Criterion(self)
        self.take_up(0)

    @property
    def experiences(self) -> list[range]:
        return self.learner.experiences

    @property
    def learned(self) -> int:
        """Experiences learned, or being learned."""
        return self.learner.learned

    @property
    def scores_unseen(self) -> bool:
        return self.learner.scores_unseen

    def adaptation(self, experience) -> None:
        if self.training:
            self.take_up(experience.current_experience)
        else:
            self.finish()

    def take_up(self, i: int) -> None:
        """Experience i (from 0) arrives: its classes begin, its training images are observed."""
        if i == self.learner.learned > 0:
            self.finish()
        self.learner.take_up(i, self.sources[0].observed)

    def finish(self) -> None:
        """What a method does once an experience is learned; idempotent."""
        if self.finished < self.learner.learned:
            self.learner.finish(self.learner.learned - 1)
            self.finished = self.learner.learned

    def forward(self, x: Tensor) -> Tensor:
        mine = self.shown(x)
        if self.training:
            self.last = out = self.learner.output(mine, self.learner.in_play)
            rest = len(self.learner.classes) - out.classes.stop
            return F.pad(out.logits, (out.classes.start, rest), value=OUT)
        return self.learner(mine).clamp(min=OUT)

    def shown(self, x: Tensor) -> Images:
        """What a step brings, from a tensor."""
        needs = self.learner.needs
        if x.ndim == 2:
            if lacking := sorted(needs & {"pixels", "raw", "trunk"}):
                raise UserError(f"this method reads {' and '.join(lacking)}: give it a stream of images, not of features")
            return Images(frozen=x)
        if "pixels" in needs and not needs & {"frozen", "raw", "trunk"}:
            return Images(pixels=x)
        return Images(pixels=x if "pixels" in needs else None, **self.frozen(x))

    @torch.no_grad()
    def frozen(self, x: Tensor) -> dict[str, Tensor]:
        """What the frozen tower makes of pixels, as far as the method needs it."""
        found, needs = self.learner.clip.image_all(x), self.learner.needs
        return {"frozen": found.unit} | {name: getattr(found, name) for name in ("raw", "trunk") if name in needs}

    def __deepcopy__(self, memo: dict) -> "Module":
        """The images are shared."""
        memo |= {id(each): each for each in (self.sources[0], self.sources[0].bank)}
        mine = type(self).__new__(type(self))
        memo[id(self)] = mine
        mine.__setstate__({name: deepcopy(value, memo) for name, value in self.__getstate__().items()})
        return mine

    def __getstate__(self) -> dict:
        """A copy (what EWC and LwF keep) begins without the last step, whose tensors belong to a graph."""
        return self.__dict__ | {"last": None}


class Criterion(nn.Module):
    """The method's own loss of the module's last forward, all its terms; of other logits, cross entropy."""

    def __init__(self, module: Module):
        super().__init__()
        self.of = [module]  # in a list: the module holds this one

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        module = self.of[0]
        out = module.last if module.training else None
        if out is None or len(out.logits) != len(targets):
            return F.cross_entropy(logits, targets)
        inside = ((targets >= out.classes.start) & (targets < out.classes.stop)).all()
        return reduce(torch.add, module.learner.terms(out, targets).values()) if inside else F.cross_entropy(logits, targets)
