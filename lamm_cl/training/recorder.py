"""What is counted in a test."""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor

from lamm_cl.results.record import Count


class Recorder(SupervisedPlugin):
    """Counts per (trained, tested, label space): every metric can be computed from them later.

    own: only the classes of the tested experience compete; joint: all classes learned so far do; all: those still to come too,
    where they have a score.  Where a class has no score yet, it is undefined.  same: for each class a number, and an answer is
    right if it has that of the image's (train.Stream.same).
    """

    def __init__(self, label_spaces: tuple[str, ...], counts: list[Count] = (), same: tuple[int, ...] = ()):
        super().__init__()
        self.label_spaces, self.same = label_spaces, torch.tensor(same) if same else None
        self.counts = list(counts)

    def before_eval_exp(self, strategy, **_) -> None:
        model, j = strategy.model, strategy.experience.current_experience
        self.tested, self.trained, self.mine = j + 1, model.learned, model.experiences[j]
        spaces = {}
        if j < model.learned or getattr(model, "scores_unseen", True):
            spaces["own"] = self.mine
        if j < model.learned:
            spaces["joint"] = range(model.experiences[model.learned - 1].stop)
        if "own" in spaces:
            spaces["all"] = range(model.experiences[-1].stop) if getattr(model, "scores_unseen", True) else spaces["joint"]
        self.spaces = {name: spaces.get(name) for name in self.label_spaces}
        self.hits = {name: torch.zeros(len(self.mine), dtype=torch.int64) for name in self.label_spaces}

    def after_eval_iteration(self, strategy, **_) -> None:
        y, logits = strategy.mb_y, strategy.mb_output
        for name, classes in self.spaces.items():
            if classes is not None:
                right = self.equal(logits[:, classes.start : classes.stop].argmax(dim=-1) + classes.start, y)
                self.hits[name] += torch.bincount(y[right] - self.mine.start, minlength=len(self.mine)).cpu()

    def equal(self, answers: Tensor, y: Tensor) -> Tensor:
        if self.same is None:
            return answers == y
        same = self.same.to(y.device)
        return same[answers] == same[y]

    def after_eval_exp(self, strategy, **_) -> None:
        total = len(strategy.experience.samples)
        for name, classes in self.spaces.items():
            hits = None if classes is None else tuple(self.hits[name].tolist())
            correct = None if hits is None else sum(hits)
            self.counts.append(Count(self.trained, self.tested, name, correct, total, hits))


def count_of(facts: dict) -> Count:
    """A count as it was saved: JSON knows no tuples."""
    hits = facts["correct_per_class"]
    return Count(**facts | {"correct_per_class": None if hits is None else tuple(hits)})
