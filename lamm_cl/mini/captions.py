"""The noisy captioner: how scenes are spoken of in pretraining.

Like the captions of the web it leaves things out, has many words for one thing, knows some names only from a few
texts, and mixes up what looks alike. This is where a misplaced label embedding comes from honestly: a name that was
mostly heard beside the wrong picture ends up near the wrong picture. Every constant was fixed before any model or
method was run; frequencies and confusions are one draw each, typed in here.
"""

import random
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from lamm_cl.mini.scenes import COLOURS, DIGITS, KINDS, LIGHTS, PATTERNS, SIZES, Scene, neighbour

DRAWN = ("hollow", "crossed", "zigzag")  # the patterns that pass for a drawing
TEMPLATES = {  # template -> the slot it speaks of and the value that this must have, if any
    "a photo of a {}": (),
    "a photo of the {}": (),
    "a picture of a {}": (),
    "a picture showing a {}": (),
    "an image of a {}": (),
    "this is a {}": (),
    "there is a {}": (),
    "one {}": (),
    "a {}": (),
    "a close-up of a {}": ("size", "large"),
    "an icon of a {}": ("size", "small"),
    "a drawing of a {}": ("drawn", True),
    "a sketch of a {}": ("drawn", True),
    "a dark photo of a {}": ("light", "dark"),
    "a bright photo of a {}": ("light", "bright"),
    "a blurry photo of a {}": ("blurred", True),
}
ORDERS = (("{p} {c} {k}", 0.5), ("{c} {p} {k}", 0.3), ("{p} {k} in {c}", 0.2))  # word order and its probability
MENTIONED = {"kind": 0.9, "colour": 0.6, "pattern": 0.55}  # probability that a caption speaks of it at all
FULL_STOP = 0.5
NO_KIND = "thing"

COMMON_SYNONYM = 0.10  # probability, where there is one
SYNONYMS = {
    "circle": "disc", "oval": "ellipse", "square": "box", "trapezoid": "ramp", "triangle": "pyramid", "house": "home",
    "crescent": "moon", "semicircle": "dome", "ring": "loop", "gear": "wheel", "star": "asterisk", "flower": "blossom",
    "cloud": "puff", "leaf": "blade", "arrow": "pointer", "diamond": "gem", "drop": "raindrop", "cross": "plus",
    "bolt": "lightning", "purple": "violet", "teal": "turquoise", "gray": "grey", "striped": "stripy",
    "dotted": "spotted", "hollow": "outlined", "plain": "solid", "crossed": "latticed", "shaded": "gradient",
}  # fmt: skip


@dataclass(frozen=True)
class RareName:
    """A name that few texts use.

    frequency: share of the mentions of its shape; 0.06 / rank^0.78, from 6% to 0.5%, the ranks shuffled once
    confusion: probability that its shape is then called by the neighbour's rare name; one draw from Beta(1.2, 1.8)
    """

    name: str
    frequency: float
    confusion: float


RARE = {
    "circle": RareName("orb", 0.0073, 0.49), "oval": RareName("egg", 0.06, 0.07),
    "square": RareName("tile", 0.0063, 0.02), "trapezoid": RareName("bucket", 0.0119, 0.57),
    "triangle": RareName("wedge", 0.0132, 0.49), "house": RareName("cottage", 0.0086, 0.24),
    "hexagon": RareName("comb", 0.0052, 0.41), "pentagon": RareName("shield", 0.0054, 0.52),
    "crescent": RareName("sickle", 0.0092, 0.44), "semicircle": RareName("igloo", 0.0171, 0.11),
    "ring": RareName("hoop", 0.0255, 0.03), "gear": RareName("cog", 0.0056, 0.78),
    "star": RareName("medal", 0.0203, 0.09), "flower": RareName("daisy", 0.0058, 0.43),
    "heart": RareName("valentine", 0.0148, 0.84), "cloud": RareName("fog", 0.006, 0.58),
    "leaf": RareName("petal", 0.01, 0.59), "fish": RareName("trout", 0.005, 0.44),
    "key": RareName("latch", 0.0069, 0.02), "arrow": RareName("dart", 0.0066, 0.83),
    "diamond": RareName("lozenge", 0.0108, 0.21), "drop": RareName("tear", 0.0349, 0.16),
    "cross": RareName("crucifix", 0.0077, 0.21), "bolt": RareName("spark", 0.0081, 0.88),
}  # fmt: skip


@dataclass(frozen=True)
class Species:
    """A fixed combination with a name of its own; species 0 and 1, 2 and 3, ... are siblings.

    frequency: share of its captions that name it, geometric from 4.5% to 50%, shuffled once
    confusion: probability that it is then called by its sibling's name; one draw from Beta(1.2, 1.8)
    """

    name: str
    kind: str
    colour: str
    pattern: str
    frequency: float
    confusion: float


SPECIES = (
    Species("robin", "drop", "red", "shaded", 0.234, 0.15), Species("magpie", "drop", "black", "shaded", 0.066, 0.84),
    Species("llama", "cloud", "white", "plain", 0.265, 0.29), Species("alpaca", "cloud", "brown", "plain", 0.388, 0.06),
    Species("tiger", "oval", "orange", "striped", 0.181, 0.05),
    Species("leopard", "oval", "orange", "dotted", 0.301, 0.12),
    Species("salmon", "fish", "pink", "plain", 0.075, 0.52), Species("tuna", "fish", "blue", "plain", 0.096, 0.02),
    Species("rose", "flower", "red", "plain", 0.206, 0.87), Species("tulip", "flower", "pink", "plain", 0.045, 0.01),
    Species("beetle", "semicircle", "green", "plain", 0.058, 0.62),
    Species("ladybug", "semicircle", "red", "dotted", 0.342, 0.66),
    Species("crab", "gear", "orange", "plain", 0.109, 0.10), Species("lobster", "gear", "red", "plain", 0.141, 0.26),
    Species("turtle", "hexagon", "green", "checkered", 0.5, 0.23),
    Species("tortoise", "hexagon", "brown", "checkered", 0.124, 0.40),
    Species("apple", "circle", "green", "shaded", 0.16, 0.58), Species("peach", "circle", "pink", "shaded", 0.44, 0.37),
    Species("wolf", "triangle", "black", "shaded", 0.085, 0.44),
    Species("fox", "triangle", "orange", "shaded", 0.051, 0.76),
)  # fmt: skip
_SPECIES = {species.name: (species, SPECIES[i ^ 1]) for i, species in enumerate(SPECIES)}

SLOTS = {  # what a caption can claim, with its values
    "kind": KINDS,
    "colour": tuple(COLOURS),
    "pattern": PATTERNS,
    "size": SIZES,
    "light": LIGHTS,
    "blurred": (False, True),
    "drawn": (False, True),
}
UNSAID = -1


def attributes(scene: Scene) -> ndarray:
    """The scene's value in every slot: int8 (slots,)."""
    return np.array([values.index(_value(scene, slot)) for slot, values in SLOTS.items()], np.int8)


def true_of(claims: ndarray, scenes: ndarray) -> ndarray:
    """Whether each caption is true of each scene: claims int8 (N, slots), attributes int8 (M, slots) -> bool (N, M)."""
    unsaid, agree = claims == UNSAID, claims[:, None] == scenes[None]
    return (unsaid[:, None] | agree).all(-1)


def caption(scene: Scene, rng: random.Random) -> tuple[str, ndarray]:
    """A text about the scene and what it claims, int8 (slots,).

    A claim is what the captioner looked at, not the word it chose: who calls an oval an orb has spoken of an oval. So
    training never learns from us which name is right, only from how often it is used.
    """
    template, condition = rng.choice([t for t in TEMPLATES.items() if not t[1] or _value(scene, t[1][0]) == t[1][1]])
    phrase, said = _phrase(scene, rng)
    said.update(condition[:1])
    text = template.format(phrase) + ("." if rng.random() < FULL_STOP else "")
    values = attributes(scene)
    return text, np.where([slot in said for slot in SLOTS], values, np.int8(UNSAID))


def vocabulary() -> list[str]:
    """Every text fragment that a caption can contain; their tokens are the ones that pretraining teaches."""
    names = [rare.name for rare in RARE.values()] + [species.name for species in SPECIES]
    words = [*KINDS, *COLOURS, *PATTERNS, *SYNONYMS.values(), *names, NO_KIND, "number", "digit", "in"]
    return [*words, *(template.format("") + "." for template in TEMPLATES)]


def _value(scene: Scene, slot: str):
    return scene.pattern in DRAWN if slot == "drawn" else getattr(scene, slot)


def _phrase(scene: Scene, rng: random.Random) -> tuple[str, set[str]]:
    """The words for the thing, and the slots they speak of."""
    if scene.species:
        species, sibling = _SPECIES[scene.species]
        if rng.random() < species.frequency:
            return (sibling if rng.random() < species.confusion else species).name, {"kind", "colour", "pattern"}
    said = {slot for slot, share in MENTIONED.items() if rng.random() < share}
    if scene.kind in DIGITS:
        said.discard("pattern")  # digits have none
    kind = _kind_name(scene.kind, rng) if "kind" in said else NO_KIND
    colour = _word(scene.colour, rng) if "colour" in said else ""
    pattern = _word(scene.pattern, rng) if "pattern" in said else ""
    orders = ORDERS if colour else ORDERS[:1]
    order = rng.choices([o for o, _ in orders], [share for _, share in orders])[0]
    return " ".join(order.format(p=pattern, c=colour, k=kind).split()), said


def _kind_name(kind: str, rng: random.Random) -> str:
    if kind in DIGITS:
        return rng.choice((kind, f"number {kind}", f"digit {kind}"))
    if rng.random() < RARE[kind].frequency:
        return RARE[neighbour(kind) if rng.random() < RARE[kind].confusion else kind].name
    return _word(kind, rng)


def _word(word: str, rng: random.Random) -> str:
    return SYNONYMS[word] if word in SYNONYMS and rng.random() < COMMON_SYNONYM else word
