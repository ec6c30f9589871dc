"""Packages that only some commands need: told before anything is done, and how to get them."""

import importlib.util
from collections.abc import Sequence

from lamm_cl.errors import UserError


def check_logs(names: Sequence[str]) -> None:
    """Raises UserError for a log whose package is missing."""
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # a mere folder called wandb, as wandb makes them, is no package
            raise UserError(f"--log {name}: needs the package {name}; pip install {name}")


def check_ray() -> None:
    """Raises UserError where Ray is missing."""
    spec = importlib.util.find_spec("ray")
    if spec is None or spec.origin is None:
        raise UserError("--ray: needs the package ray; pip install 'lamm-cl[ray]'")
