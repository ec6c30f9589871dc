"""Zero-shot CLIP under a protocol's templates: t_c = the direction of the mean over templates of the unit text(template with c).

Of PROOF's family (Zhou et al., TPAMI 2025, models/base.py 141-147): what a template gives is normalised, and their mean again.
"""

from collections.abc import Sequence

from lamm_cl.learner.pieces import ContextLearner


class Templates(ContextLearner):
    """Those that the scenario names; where it names none, the data set's own.  spoken: their texts."""

    def __init__(self, *, spoken: Sequence[str]):
        super().__init__()
        self.templates = tuple(spoken)
