"""What was released stays: the hashes by which results are known as those of a card and a scenario.

A moved hash disowns people's results. New cards and scenarios need no entry; `python tests/test_pins.py` adds theirs to
tests/pins/hashes.json and leaves those that are there as they are.
"""

import json
from pathlib import Path

from lamm_cl.config.cards import card_for, card_names, load_card, load_scenario, scenario_names
from lamm_cl.config.identity import content_hash

PINS = Path(__file__).parent / "pins" / "hashes.json"


def hashes() -> dict[str, dict[str, str]]:
    """Of all shipped cards, of all shipped scenarios, and of each method of a scenario with the scenario's overrides."""
    scenarios = {name: load_scenario(name) for name in scenario_names()}
    return {
        "cards": {key: content_hash(load_card(key)) for key in card_names()},
        "scenarios": {name: content_hash(scenario) for name, scenario in scenarios.items()},
        "cards in scenarios": {
            f"{name}: {method}": content_hash(card_for(scenario, method))
            for name, scenario in scenarios.items()
            for method in dict.fromkeys([*scenario.methods, *scenario.overrides])
        },
    }


def released() -> dict[str, dict[str, str]]:
    return json.loads(PINS.read_text())


def test_no_released_hash_moved_or_disappeared():
    now = hashes()

    pinned = [(kind, name, pin) for kind, pins in released().items() for name, pin in pins.items()]

    assert [f"{kind}: {name}" for kind, name, pin in pinned if now[kind].get(name) != pin] == []


def test_every_card_and_scenario_of_the_first_release_is_pinned():
    cards, scenarios, both = map(len, released().values())

    assert cards >= 18 and scenarios >= 19 and both >= 117


def add() -> None:
    now = hashes()
    pins = released() if PINS.exists() else {}
    PINS.write_text(json.dumps({kind: now[kind] | pins.get(kind, {}) for kind in now}, indent=1) + "\n")


if __name__ == "__main__":
    add()
