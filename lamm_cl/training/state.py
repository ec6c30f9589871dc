"""Where an unfinished run stands: enough to go on as if nothing had happened, in one file that is whole or absent.

All random draws of a run come from generators seeded by (seed, purpose, experience, epoch or step), so a position is enough to
restore them; what remains is learned tensors (parameters and persistent buffers), what the optimizer keeps, and the counts.
What a piece observed of past experiences is not in it: it is observed again.

Format 1 had `momentum/NAME` where format 2 has `optimizer/NAME/momentum_buffer`; a state of format 1 is still continued.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lamm_cl.errors import UserError
from lamm_cl.files import open_regular, write_atomic

FORMAT = 2
KNOWN = (1, FORMAT)
NAME = "state/state.safetensors"
FACTS = ("experience", "epochs", "counts", "trainable", "seconds")


@dataclass
class State:
    """A run that learned `epochs` epochs of experience `experience` (from 0); every experience before is learned and tested."""

    experience: int = 0
    epochs: int = 0
    counts: list[dict] = field(default_factory=list)
    trainable: list[int] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    learned: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # parameter -> what torch's optimizer keeps of it


def write(folder: Path, identity: dict, state: State) -> None:
    """Replace the state of a run; `identity` is all that must be the same for it to be continued."""
    facts = {name: getattr(state, name) for name in FACTS}
    tensors = {f"learned/{name}": tensor for name, tensor in state.learned.items()}
    tensors |= {f"optimizer/{name}/{key}": value for name, kept in state.optimizer.items() for key, value in kept.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    told = json.dumps({"format": FORMAT, "identity": identity, "facts": facts}, sort_keys=True)
    write_atomic(folder / NAME, save(tensors, {"state": told, "sha256": digest(told, tensors)}))


def read(folder: Path, identity: dict) -> State | None:
    """The state to go on from; None if there is none, or if it is damaged: the run then starts again and loses time only.

    Raises UserError, naming the field, for a state of another configuration: it is never mixed in.
    """
    try:
        with open_regular(folder / NAME), safe_open(folder / NAME, "pt") as file:
            told, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
        if told["sha256"] != digest(told["state"], tensors):
            return None
        found = json.loads(told["state"])
    except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    found["identity"].setdefault("linears", "plain")  # there was nothing else
    if found["format"] not in KNOWN:
        identity = {"format": FORMAT, **identity}
    for name, value in identity.items():
        old = found["format"] if name == "format" else found["identity"].get(name)
        if old != value:
            raise UserError(
                f"{folder / NAME}: {name}: the unfinished run has {old!r}, this one {value!r}; move its folder away to begin anew"
            )
    state = State(**found["facts"])
    for kind, name, key, tensor in _named(tensors):
        if kind == "learned":
            state.learned[name] = tensor
        else:
            state.optimizer.setdefault(name, {})[key] = tensor
    return state


def linears_of(folder: Path) -> str:
    """How the linear layers of an unfinished run are computed; "" if there is none, or nobody knows."""
    with suppress(OSError, SafetensorError, KeyError, TypeError, ValueError):
        with open_regular(folder / NAME), safe_open(folder / NAME, "pt") as file:
            return str(json.loads(file.metadata()["state"])["identity"].get("linears", "plain"))
    return ""


def _named(tensors: dict[str, Tensor]) -> Iterator[tuple[str, str, str, Tensor]]:
    """(learned or optimizer, name of the parameter, what the optimizer calls it, tensor)."""
    for path, tensor in tensors.items():
        kind, _, name = path.partition("/")
        if kind == "momentum":
            kind, name = "optimizer", f"{name}/momentum_buffer"
        name, _, key = name.rpartition("/") if kind == "optimizer" else (name, "", "")
        yield kind, name, key, tensor


def digest(told: str, tensors: dict[str, Tensor]) -> str:
    total = hashlib.sha256(told.encode())
    for name, tensor in sorted(tensors.items()):
        total.update(name.encode())
        total.update(tensor.numpy())
    return total.hexdigest()
