"""A protocol's templates: in the test t_c = the direction of the mean over templates of the unit text(template with c), in
training the unit text under the first one alone.

Of PROOF's family (Zhou et al., TPAMI 2025): models/base.py 141-147 and models/proof.py 210-221.
"""

from collections.abc import Sequence

from lamm_cl.learner.pieces import ContextLearner


class Templates(ContextLearner):
    """Those that the scenario names; where it names none, the data set's own.  spoken: their texts."""

    first_trains = True

    def __init__(self, *, spoken: Sequence[str]):
        super().__init__()
        self.templates = tuple(spoken)
