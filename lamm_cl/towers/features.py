"""In place of a CLIP, where a data set is features already: what heads ask of it, and one line for what is not there."""

import hashlib
from copy import copy
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from lamm_cl.config.schema import Backbone
from lamm_cl.errors import UserError

IMAGE_TOWER = frozenset({"image", "image_all", "preprocess", "image_size", "w", "is_vit", "patches", "projection"})
TEXT_TOWER = frozenset({"tokenize", "words", "embed", "prefix", "text", "text_raw", "tokens", "read", "read_raw", "d", "depth",
                        "length", "tokenizer"})  # fmt: skip
BOTH_TOWERS = frozenset({"model", "shape", "added"})


class FeaturesOnly:
    """A FrozenCLIP without towers.  scale: CLIP's own at the end of its training.

    Made for one method on one data set (`of`), it knows the width D of the features, and the unit features of the classes'
    texts (C, D), by arrival, where the file has them.
    """

    activation = ""
    precision = "fp32"
    linears = "plain"
    stored = "as given"
    checkpoint = False

    def __init__(self, backbone: Backbone):
        self.weights_hash = hashlib.sha256(backbone.weights.encode()).hexdigest()  # of the user's word: no weights are here
        self.preprocess_facts: dict = {}
        self.device = torch.device("cpu")
        self.scale = torch.tensor(100.0)
        self.method = self.file = ""
        self.D = 0
        self.texts: Tensor | None = None

    def of(self, method: str, file: str, D: int, texts: Tensor | None) -> "FeaturesOnly":
        """The same for one method on one data set."""
        mine = copy(self)
        mine.method, mine.file, mine.D = method, file, D
        mine.texts = None if texts is None else F.normalize(texts.float().to(self.device), dim=-1)
        return mine

    def lacks(self, what: str) -> UserError:
        """The error of a method that needs what is not there."""
        absent = f"{self.file} has no `text`" if what == "class texts" else f"this dataset is features only ({self.file})"
        return UserError(f"{self.method} needs {what}; {absent}")

    def to(self, device: str) -> "FeaturesOnly":
        self.device = torch.device(device)
        self.scale = self.scale.to(device)
        return self

    def __getattr__(self, name: str) -> NoReturn:
        for tower, has in (("image tower", IMAGE_TOWER), ("text tower", TEXT_TOWER), ("towers", BOTH_TOWERS)):
            if name in has:
                raise self.lacks(f"the {tower}")
        raise AttributeError(name)
