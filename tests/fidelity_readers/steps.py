"""What readers of tests/fidelity*/ share: the CLIP and the training of a case, and the arrays that follow from tensors."""

import torch
from generated import frozen_clip

from lamm_cl.config.schema import Training, Warmup

READERS: dict = {}
CLIPS: dict = {}


def training_of(hyper: dict) -> Training | None:
    if "optimizer" not in hyper:
        return None
    given, schedule = hyper["optimizer"], hyper["lr_schedule"]
    if given["name"] == "adam":
        assert not given["amsgrad"]
        chosen = {"optimizer": {"use": "adam", "betas": given["betas"], "eps": given["eps"]}}
    else:
        assert (given["name"], given["dampening"], given["nesterov"]) == ("sgd", 0, False)
        chosen = {"optimizer": "sgd", "momentum": given["momentum"]}
    common = dict(batch=1, lr=given["lr"], weight_decay=given["weight_decay"], augmentation="none", **chosen)
    if schedule == "constant":
        return Training(epochs=1, schedule="constant", **common)
    assert (schedule["type"], schedule["warmup_type"]) == ("cosine", "constant")
    warmup = Warmup(epochs=schedule["warmup_epochs"], lr=schedule["warmup_lr"])
    return Training(epochs=schedule["max_epoch"], schedule="cosine", warmup=warmup, **common)


def clip_of(arch: str, cases: dict):
    key = (arch, cases["salt"], str(cases["architectures"][arch]))
    if key not in CLIPS:
        CLIPS[key] = frozen_clip(cases["architectures"][arch], cases["salt"])
    return CLIPS[key]


def subsample(flat: torch.Tensor, m: int) -> torch.Tensor:
    n = flat.shape[-1]
    return flat[..., [k * n // m for k in range(min(m, n))]]


def gradient_of(name: str, gradient: torch.Tensor) -> dict:
    return {
        f"grad/{name}": gradient,
        f"grad_sub/{name}": subsample(gradient.flatten(), 4096),
        f"grad_norm/{name}": gradient.norm(),
    }


def parameter_of(name: str, rows: torch.Tensor) -> dict:
    flat = rows.flatten(1)
    return {f"param/{name}": rows, f"param_sub/{name}": subsample(flat, 1024), f"param_norm/{name}": flat.norm(dim=1),
            f"delta_norm/{name}": (flat - flat[0]).norm(dim=1)}  # fmt: skip
