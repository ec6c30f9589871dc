"""Where an unfinished run stands: enough to go on as if nothing had happened, in one file that is whole or absent.

All random draws of a run come from generators seeded by (seed, purpose, experience, epoch), so a position is enough to restore
them; what remains is learned tensors, the optimizer's momentum, and the counts so far.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lamm_cl.errors import UserError
from lamm_cl.files import write_atomic

FORMAT = 1
NAME = "state/state.safetensors"


@dataclass
class State:
    """A run that learned `epochs` epochs of experience `experience` (from 0); every experience before is learned and tested."""

    experience: int = 0
    epochs: int = 0
    counts: list[dict] = field(default_factory=list)
    trainable: list[int] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    learned: dict[str, Tensor] = field(default_factory=dict)
    momentum: dict[str, Tensor] = field(default_factory=dict)


def write(folder: Path, identity: dict, state: State) -> None:
    """Replace the state of a run; `identity` is all that must be the same for it to be continued."""
    facts = {name: value for name, value in asdict(state).items() if name not in ("learned", "momentum")}
    tensors = {f"learned/{n}": t for n, t in state.learned.items()} | {f"momentum/{n}": t for n, t in state.momentum.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    told = json.dumps({"format": FORMAT, "identity": identity, "facts": facts}, sort_keys=True)
    write_atomic(folder / NAME, save(tensors, {"state": told, "sha256": digest(told, tensors)}))


def read(folder: Path, identity: dict) -> State | None:
    """The state to go on from; None if there is none, or if it is damaged: the run then starts again and loses time only.

    Raises UserError, naming the field, for a state of another configuration: it is never mixed in.
    """
    try:
        with safe_open(folder / NAME, "pt") as file:
            told, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
        if told["sha256"] != digest(told["state"], tensors):
            return None
        found = json.loads(told["state"])
    except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    for name, value in {"format": FORMAT, **identity}.items():
        old = found["format"] if name == "format" else found["identity"].get(name)
        if old != value:
            raise UserError(
                f"{folder / NAME}: {name}: the unfinished run has {old!r}, this one {value!r}; move its folder away to begin anew"
            )
    parts = {
        kind: {n.removeprefix(f"{kind}/"): t for n, t in tensors.items() if n.startswith(f"{kind}/")}
        for kind in ("learned", "momentum")
    }
    return State(**found["facts"], **parts)


def digest(told: str, tensors: dict[str, Tensor]) -> str:
    total = hashlib.sha256(told.encode())
    for name, tensor in sorted(tensors.items()):
        total.update(name.encode())
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()
