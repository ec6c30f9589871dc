"""Where a number of ours stands: which published one of class-incremental learning it may stand beside, and what differs.

incremental.yaml says what each was measured under, fact by fact. A fact that is not stated there matches nothing: a number
stands beside runs of ours only where everything is known to be the same.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from lamm_cl import yaml_facts
from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.files import PACKAGE
from lamm_cl.reports.measures import INCREMENTAL, in_space
from lamm_cl.reports.published import folded
from lamm_cl.reports.table import DIFFERENCE, PUBLISHED, Label, Line, Number
from lamm_cl.results.record import Record, bound_of
from lamm_cl.results.runs import Runs

NUMBERS = PACKAGE / "reports" / "incremental.yaml"  # which says what the fields below mean
MEASURES = ("average incremental", "last")
SPACE = "joint"
ANY = "any"
UNSTATED = "unstated"
# What is compared, in the order in which it is told. `seeds` alone decides nothing: a spread needs several.
FACTS = (
    *("dataset", "split", "test images", "names", "experiences", "order", "images", "weights", "resize", "templates"),
    *("replay", "masking", "method", "numbers of the card", "seeds"),
)


@dataclass(frozen=True)
class Claim:
    """A published number: average and last accuracy (NaN: not given), and its facts, None where they are not stated."""

    method: str
    dataset: str  # as tables call it
    protocol: str  # B0-Inc10, or "unstated"
    numbers: tuple[float, float]
    cards: tuple[str, ...]
    source: str
    setting: str
    secondary: bool
    disputed: str
    told: str
    facts: Mapping[str, object]

    @property
    def name(self) -> str:
        return f"{self.method}, {self.dataset}{'' if self.protocol == UNSTATED else f' {self.protocol}'}"

    @property
    def marks(self) -> str:
        """What a reader must know beside the number."""
        return ", ".join(["secondary"] * self.secondary + [f"disputed by {self.disputed}"] * bool(self.disputed))


@dataclass(frozen=True)
class Compared:
    """One fact of a run and of a published number, as people read them.  same: None where nothing can be said."""

    fact: str
    ours: str
    theirs: str
    same: bool | None


@cache
def claims() -> tuple[Claim, ...]:
    facts = yaml_facts.parse(NUMBERS.read_bytes(), NUMBERS.name)
    return tuple(
        _claim(group, facts["families"][group["family"]], dataset, protocol, numbers)
        for group in facts["groups"]
        for dataset, by_protocol in group["values"].items()
        for protocol, numbers in by_protocol.items()
    )


def _claim(group: Mapping, family: Mapping, dataset: str, protocol: str, numbers: Sequence[float | None]) -> Claim:
    data, replay = family["datasets"][dataset], group["replay"]
    order = data.get("order", family.get("order"))
    count = data.get("count")
    facts = {
        "dataset": data["of"], "split": data["split"], "test images": data.get("test", ANY), "names": data["names"],
        "experiences": experiences(protocol, count), "order": _order(order, count), "images": family["images"],
        "weights": family["weights"] and tuple(family["weights"]), "resize": family["resize"], "templates": data["templates"],
        "replay": replay.get(dataset) if isinstance(replay, dict) else replay, "masking": group["masking"],
        "method": tuple(group["cards"]), "numbers of the card": "its own",
        "seeds": tuple(group["seeds"]) if group.get("seeds") else None,
    }  # fmt: skip
    weights = " or ".join(facts["weights"] or ["weights not stated"])
    shown = f"{weights}, order {_shown_order(order)}, {family['resize'] or 'resize not stated'}; {family['told']}"
    return Claim(
        group["method"], dataset, protocol, (_number(numbers[0]), _number(numbers[1])), tuple(group["cards"]), group["source"],
        shown, group.get("secondary", False), group.get("disputed", ""), group.get("told", ""), facts,
    )  # fmt: skip


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def experiences(protocol: str, count: int | None) -> tuple[int, ...] | None:
    """B0-Inc10 and B50-Inc10 of so many classes -> how many each experience brings; None where it is not stated."""
    match = re.fullmatch(r"B(\d+)-Inc(\d+)", protocol)
    if not match or count is None:
        return None
    base, step = map(int, match.groups())
    return (*([base] if base else []), *[step] * ((count - base) // step))


def _order(order: Mapping | None, count: int | None) -> tuple[int, ...] | None:
    """The first classes to arrive, or all of them."""
    if not order:
        return None
    if "begins" in order:
        return tuple(order["begins"])
    return tuple(np.random.RandomState(order["seed"]).permutation(count).tolist()) if count else None


def _shown_order(order: Mapping | None) -> str:
    if not order:
        return "stated by data set" if order is not None else "not stated"
    return f"of numpy's seed {order['seed']}" if "seed" in order else f"stored, {_few(order['begins'])}"


def known(dataset: str = "", method: str = "", datasets: Iterable[str] = (), methods: Iterable[str] = ()) -> list[Claim]:
    """Those of a data set and a method, in any spelling. UserError for what neither they are of, nor other tables (`datasets`,
    `methods`)."""
    found = list(claims())
    for field, word, of, others in (
        ("--dataset", dataset, lambda claim: (claim.dataset, str(claim.facts["dataset"])), datasets),
        ("--method", method, lambda claim: (claim.method, *claim.cards), methods),
    ):
        names = dict.fromkeys([*(name for claim in claims() for name in of(claim)), *others])
        if word and folded(word) not in map(folded, names):
            raise UserError(f"{field}: nothing is known of {word!r}{did_you_mean(word, names)}")
        found = [claim for claim in found if not word or folded(word) in map(folded, of(claim))]
    return found


def named(text: str) -> Claim:
    """ "PROOF, CIFAR100 B0-Inc10" -> the number. UserError with the nearest name for any other."""
    found = {folded(claim.name): claim for claim in claims()}
    if folded(text) not in found:
        names = [claim.name for claim in claims()]
        raise UserError(f"--against: no published number {text!r}{did_you_mean(text, names)}; expected METHOD, DATASET PROTOCOL")
    return found[folded(text)]


def facts_of(record: Record) -> dict[str, object]:
    """What a run was measured under, fact by fact."""
    scenario, card, data = record.scenario, record.card, record.dataset
    key, bound = bound_of(record.run.method)
    return {
        "dataset": record.run.dataset, "split": data.split or "own", "test images": sum(data.test_images),
        "names": scenario.get("classes") or "own", "experiences": data.experiences, "order": data.order,
        "images": record.run.shots, "weights": f"{record.backbone.architecture} {record.backbone.weights}",
        "resize": scenario.get("backbone", {}).get("resize", "crop"), "templates": scenario.get("templates") or "own",
        "replay": _kept(card.get("memory")),
        "masking": card.get("label_space") or scenario.get("train_label_space", "experience"),
        "method": f"{key} ({bound} bound)" if bound else key,
        "numbers of the card": "changed by the scenario" if scenario.get("overrides", {}).get(key) else "its own",
        "seeds": record.run.seed,
    }  # fmt: skip


def _kept(memory: Mapping | None) -> str:
    if not memory:
        return "none"
    if memory.get("per_class"):
        return f"{memory['per_class']} a class"
    return f"{memory['total']} in all" if memory.get("total") else "exemplars"


def compared(record: Record, claim: Claim, seeds: Sequence[int] = ()) -> list[Compared]:
    """All facts, side by side; seeds: those of the method's runs, default the record's."""
    ours, theirs = facts_of(record) | {"seeds": tuple(seeds) or (record.run.seed,)}, claim.facts
    return [Compared(fact, _told(ours[fact]), _told(theirs[fact]), _same(fact, ours[fact], theirs[fact])) for fact in FACTS]


def _same(fact: str, ours: object, theirs: object) -> bool | None:
    if theirs is None:
        return None
    if theirs == ANY:
        return True
    if fact in ("weights", "method"):
        return ours in theirs  # type: ignore[operator]
    if fact == "order":
        return tuple(ours)[: len(theirs)] == theirs  # type: ignore[arg-type]
    return ours == theirs


def comparable(record: Record, claim: Claim) -> bool:
    """Whether everything is known to be the same."""
    if record.scenario.get("train_on") or record.dataset.features:
        return False
    return all(each.same for each in compared(record, claim) if each.fact != "seeds")


def beside(runs: Runs, place: str, space: str) -> tuple[list[Line], list[str]]:
    """Below the measured rows of a data set in the incremental table: what was published under the same facts, our difference
    with a verdict, and where it was read."""
    if space != SPACE or place not in runs.datasets:
        return [], []
    lines, notes = [], []
    for method in runs.methods:
        records = [*runs.records.get((place, method), {}).values()]
        for claim in claims() if records else ():
            if not all(comparable(record, claim) for record in records):
                continue
            each = {name: [in_space(INCREMENTAL[name][1], space)(record) for record in records] for name in MEASURES}
            theirs = dict(zip(MEASURES, claim.numbers, strict=True))
            shown = f"{runs.name(method)} (published{f', {claim.marks}' if claim.marks else ''})"
            lines.append(_line(place, space, shown, theirs, PUBLISHED))
            verdicts = [f"{name} {verdict(each[name], theirs[name])}" for name in MEASURES if not np.isnan(theirs[name])]
            differences = {name: float(np.mean(each[name])) - theirs[name] for name in MEASURES}
            lines.append(
                _line(place, space, f"{runs.name(method)}, ours minus published ({'; '.join(verdicts)})", differences, DIFFERENCE)
            )
            marked = f" ({claim.marks})" if claim.marks else ""
            notes.append(f"{claim.name} (published): {claim.source}{marked}")
    return lines, notes


def verdict(ours: Sequence[float], published: float) -> str:
    """Where our mean lies: inside the spread (one standard deviation over seeds) around the published number, above, or below."""
    if len(ours) < 2:
        return "one seed, no spread"
    mean, spread = float(np.mean(ours)), float(np.std(ours, ddof=1))
    if abs(mean - published) <= spread:
        return "inside the spread"
    return "above the spread" if mean > published else "below the spread"


def _line(place: str, space: str, name: str, values: Mapping[str, float], origin: str) -> Line:
    labels = (Label(place, place), Label(space, space), Label(name, name))
    return Line(labels, tuple(Number(values.get(c, np.nan), np.nan, 0, 0) for c in INCREMENTAL), origin=origin)


def _told(value: object) -> str:
    if value is None:
        return "not stated"
    if value == ANY:
        return "does not matter"
    if isinstance(value, tuple):
        return _few(value) if value else "no card of ours"
    return str(value)


def _few(values: Iterable) -> str:
    """Up to ten."""
    shown = [str(value) for value in values]
    return " ".join(shown[:10]) + (f" ... ({len(shown)})" if len(shown) > 10 else "")
