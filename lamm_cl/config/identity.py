"""What decides the numbers of a run, and its hash."""

import hashlib
import json
from typing import Any

from lamm_cl.config.explained import validated
from lamm_cl.config.schema import Card, Scenario
from lamm_cl.config.uses import without_place
from lamm_cl.errors import shown


def content_hash(model: Scenario | Card) -> str:
    """sha256 (hex) of the canonical JSON of what decides the numbers of a run.

    Texts (description, provenance, published, ...) are left out, and of a scenario its lists (datasets, methods, shots, seeds,
    orders), which say how many runs there are, not what one of them is: a scenario may grow without losing its results.
    """
    return hashlib.sha256(json.dumps(identity(model), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def identity(model: Scenario | Card) -> dict[str, Any]:
    """The part that `content_hash` hashes, as plain JSON types.

    What is at its default is left out: a field that a later version adds does not disown the results there are. It also
    means that a default must never change.
    """
    return without_place(model.model_dump(mode="json", include=set(model.identity), exclude_defaults=True))


def from_record(model: type[Scenario] | type[Card], facts: dict[str, Any], where: str) -> Any:
    """The scenario or card that a record was made with. Raises UserError, beginning with `where`."""
    return validated(model, {key: value for key, value in facts.items() if key != "hash"}, where)


def difference(old: Any, new: Any, path: str = "") -> str:
    """The first place where two nested facts differ, "training.epochs: 10, now 50"; "" where they agree."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            found = difference(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
            if found:
                return found
        return ""
    return "" if old == new else f"{path}: {shown(old)}, now {shown(new)}"
