"""Texts of which only the features are there: a fixed table in place of the text tower, for data sets that are features."""

from torch import Tensor, nn

from lamm_cl.learner.pieces import ContextLearner, Head, Labels, Piece
from lamm_cl.towers.clip import Prompts
from lamm_cl.towers.features import FeaturesOnly


class TextTable(nn.Module):
    """TextFeatures of a fixed table (C, D), unit, or (K, C, D), classes by arrival: constant, nothing to keep or to forget."""

    table: Tensor

    def __init__(self, table: Tensor, experiences: list[range]):
        super().__init__()
        self.register_buffer("table", table, persistent=False)
        self.experiences = self.constant = experiences
        self.kept: dict[range, Tensor] = {}

    def features(self, prompts: Prompts, classes: range) -> Tensor:
        """(c, D), or (K, c, D)."""
        return self.table[..., classes.start : classes.stop, :]

    encode = features

    def keep(self, prompts: Prompts, classes: list[range]) -> None:
        pass

    def forget(self, classes: list[range]) -> None:
        pass


def table_for(clip: FeaturesOnly, experiences: list[range], context: ContextLearner, labels: Labels, head: Head,
              others: list[Piece], templates_decide: bool) -> TextTable | None:  # fmt: skip
    """The texts of a method without towers; None where its head reads none.  UserError for a method that needs a tower.

    The file's texts stand in for any fixed words, whose differences are small beside a head's; not where several templates are
    all that a method is.
    """
    pieces = [context, labels, head, *others]
    needs = frozenset().union(*(piece.needs for piece in pieces))
    if context.prompts_images or "pixels" in needs:
        raise clip.lacks("the image tower")
    if "trunk" in needs:
        raise clip.lacks("image features before their projection")
    if not head.reads_text:
        return None
    learns = any(True for piece in (context, labels) for _ in piece.parameters())
    if learns or labels.k or context.reads_images or needs & {"tokens", "text_tokens", "reference"}:
        raise clip.lacks("the text tower")
    if clip.texts is None:
        raise clip.lacks("class texts")
    if templates_decide and len(context.templates) > 1:
        raise clip.lacks("the text tower")
    return TextTable(clip.texts[None] if "text_each" in head.needs else clip.texts, experiences)
