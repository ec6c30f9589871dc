"""The optimizer and the learning rate of an experience."""

import math

import torch
from torch.optim import SGD, Optimizer

from lamm_cl.config.schema import Training


def optimizer(training: Training, model: torch.nn.Module) -> Optimizer:
    """SGD over what requires a gradient; parameters without a gradient are skipped, those with a zero gradient decay."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return SGD(trainable, lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay)


def learning_rate(training: Training, epoch: int) -> float:
    """The rate of an epoch (from 0), as Dassl: a constant warm-up, then a cosine that counts from the end of the warm-up but
    keeps the full length, so it ends above 0."""
    warm = training.warmup.epochs if training.warmup else 0
    if epoch < warm:
        return training.warmup.lr
    if training.schedule == "constant":
        return training.lr
    return training.lr / 2 * (1 + math.cos(math.pi * (epoch - warm) / training.epochs))
