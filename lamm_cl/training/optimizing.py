"""The optimizer and the learning rate of an experience.

With K epochs or steps, W of them warm-up, and t from 0 (an epoch, or a step with `per: step`):

    constant    lr                                          multi-step  lr factor^(milestones <= t)
    cosine      f + (lr - f)/2 (1 + cos(pi (t - W) / K))            Dassl (dassl/optim/lr_scheduler.py): ends above the floor f
    annealing   f + (lr - f)/2 (1 + cos(pi (t - W) / (K - W)))      torch's CosineAnnealingLR
    lagging     lr cos(99 pi max(t - 1, 0) / (200 (K - 1)))         CODA-Prompt (utils/schedulers.py): two first epochs at lr

and during the warm-up its own constant rate, or lr (t + 1) / W.  A `period` stands in place of K, or of K - W.
"""

import math
from bisect import bisect_right

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim import Adam as TorchAdam

from lamm_cl.config.schema import Adam, Own, Training
from lamm_cl.errors import UserError, did_you_mean

PIECES = {"extra_loss": "loss"}  # where the name of a learner's module is not the card's


def optimizer(training: Training, model: nn.Module) -> Optimizer:
    """Over what requires a gradient; parameters without a gradient are skipped, those with a zero gradient decay.

    A group of parameters for every factor in `rates` and every entry of `own`; it keeps its "factor", and its "training".
    """
    groups = []
    for (factor, own), parameters in by_numbers(training, model).items():
        mine = training if own is None else training.model_copy(update={"lr": own.lr, "weight_decay": own.weight_decay})
        groups.append({"params": parameters, "factor": factor, "training": mine, "lr": mine.lr * factor,
                       "weight_decay": mine.weight_decay})  # fmt: skip
    if training.optimizer == "sgd":
        return SGD(groups, lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay)
    named = training.optimizer
    chosen = named if isinstance(named, Adam) else Adam(use=named)
    kind = {"adam": TorchAdam, "adamw": AdamW}[chosen.use]
    return kind(groups, lr=training.lr, betas=chosen.betas, eps=chosen.eps, weight_decay=training.weight_decay)


def by_numbers(training: Training, model: nn.Module) -> dict[tuple[float, Own | None], list[nn.Parameter]]:
    """Trainable parameters by the factor of their piece and by their own numbers; one group where nothing differs."""
    own, named = training.own or {}, dict(model.named_parameters())
    for each in own:
        if not any(_is_of(each, name) for name in named):
            raise UserError(f"training: own: {each!r} is no parameter of this method{did_you_mean(each, named)}")
    found: dict[tuple[float, Own | None], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        if parameter.requires_grad:
            piece = name.partition(".")[0]
            factor = getattr(training.rates, PIECES.get(piece, piece), 1.0)
            mine = next((numbers for each, numbers in own.items() if _is_of(each, name)), None)
            found.setdefault((factor, mine), []).append(parameter)
    return found


def _is_of(prefix: str, name: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def learning_rate(training: Training, epoch: int, step: int = 0, per_epoch: int = 1) -> float:
    """The rate of a step (from 0) of an epoch (from 0) that has `per_epoch` steps; see the head of this file.

    training: as `training_of` gives it.  Where nothing changes per step, the rate of the epoch.
    """
    schedule, warmup = training.schedule, training.warmup
    each = per_epoch if training.per == "step" else 1  # times an epoch
    t = epoch * each + (step if training.per == "step" else 0)
    K = training.epochs * each if training.steps is None else math.ceil(training.steps * each / per_epoch)
    W = 0 if warmup is None else warmup.steps or warmup.epochs * each
    if t < W:
        return training.lr * (t + 1) / W if warmup.lr is None else warmup.lr
    name, floor = (schedule, 0.0) if isinstance(schedule, str) else (schedule.use, schedule.floor)
    if name == "milestones":
        return training.lr * schedule.factor ** bisect_right(schedule.milestones, t)
    if name == "constant":
        return training.lr
    if name == "lagging":
        return training.lr * math.cos(99 * math.pi * max(t - 1, 0) / (200 * max(K - 1, 1)))
    period = getattr(schedule, "period", None) or (K if name == "cosine" else K - W)
    return floor + (training.lr - floor) / 2 * (1 + math.cos(math.pi * (t - W) / period))


def set_rate(optimizer: Optimizer, epoch: int, step: int = 0, per_epoch: int = 1) -> None:
    """Of every group of an optimizer that was made here; as `learning_rate`."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(group["training"], epoch, step, per_epoch) * group["factor"]


def clip(training: Training, optimizer: Optimizer) -> None:
    """Scale all gradients so that their norm together is at most clip_gradient."""
    if training.clip_gradient is not None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, training.clip_gradient)
