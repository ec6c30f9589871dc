"""CoOp (Zhou et al., IJCV 2022): t_c = text([SOS][v_1 .. v_n][name_c].), with v learned and shared by all classes.

Variants of the paper: n random vectors instead of words; class-specific contexts v_c; the name in the middle or in front.
With random vectors the base text is "X X ... X name.", as in the release (trainers/coop.py).
"""

from typing import Literal

from torch import Tensor

from lamm_cl.learner import pieces
from lamm_cl.learner.pieces import ContextLearner, Few
from lamm_cl.learner.prompts import Atom, PerClass, noise, start
from lamm_cl.learner.shown import Experience
from lamm_cl.towers.clip import FrozenCLIP, Prompts

ORDERS = {
    "end": lambda phrase, name: phrase + name,
    "middle": lambda phrase, name: phrase[: len(phrase) // 2] + name + phrase[len(phrase) // 2 :],
    "front": lambda phrase, name: name + phrase,
}


class Words(pieces.Words):
    """A fixed context, "a photo of a": what LAMM trains its labels under."""


class CoOp(ContextLearner):
    """init: n words to start from, or None for random vectors."""

    def __init__(self, clip: FrozenCLIP, *, n: Few, init: str | None, position: Literal["end", "middle", "front"] = "end"):
        super().__init__()
        self.n, self.order = n, ORDERS[position]
        template, self.v = start(clip, n, init)
        self.templates = (template,)

    def text(self, x: Tensor | None, classes: range) -> Prompts:
        return Prompts(self.v.unsqueeze(0))

    def arrange(self, phrase: list[Atom], name: list[Atom]) -> list[Atom]:
        return self.order(phrase, name)


class ClassContext(CoOp):
    """Class-specific contexts (C, n, d).  In a stream those of past experiences are frozen, as LAMM's labels are."""

    shared = False

    def __init__(self, clip: FrozenCLIP, *, names: list[str], n: Few, init: str | None,
                 position: Literal["end", "middle", "front"] = "end"):  # fmt: skip
        super().__init__(clip, n=n, init=init, position=position)
        v = self.v.detach()
        del self.v
        self.v = PerClass(v.repeat(len(names), 1, 1) if init else noise(len(names), *v.shape).detach().to(v))

    @property
    def moves_text(self) -> bool:
        return False

    def begin(self, e: Experience) -> None:
        self.v.grow(e.classes)

    def text(self, x: Tensor | None, classes: range) -> Prompts:
        return Prompts(self.v(classes), classes=classes)
