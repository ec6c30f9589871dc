"""Whether results are what they say: every file whole, tables that follow from the records, runs that can be repeated."""

import json
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from lamm_cl import yaml_facts
from lamm_cl.config.identity import content_hash, difference, from_record, identity
from lamm_cl.config.lengths import lengths
from lamm_cl.config.schema import CHAIN, FEATURES, Card, Scenario
from lamm_cl.data import catalogue
from lamm_cl.errors import UserError, did_you_mean, shown
from lamm_cl.files import read_regular
from lamm_cl.results.file import parsed, read_record
from lamm_cl.results.record import Record, bound_of, run_place
from lamm_cl.results.stored import Stored, check_file, nothing_in, pack_of, scenario_text, stored
from lamm_cl.sweeping.execute import Event, Settings, Train, execute
from lamm_cl.sweeping.plan import orders_of, plan
from lamm_cl.sweeping.publish import Derived

KINDS: dict[str, type] = {"scenario": Scenario, "card": Card}
MOST_PASSES = 1_000_000  # images of training that are done again without asking


def problems(results: Path, derived: Derived) -> list[str]:
    """What is wrong with a results folder or a pack, one line each; [] if nothing is.

    Raises UserError for a folder without finished runs: its tables then follow from nothing.
    """
    finished = runs(results)
    found = [problem for one in finished.values() for problem in _of_run(one)]
    return found or list(_derived(results, derived))  # with a broken record nothing can be said about tables


def runs(results: Path) -> dict[str, Stored]:
    """DATASET/METHOD/shotsK-seedS -> all finished runs, in a folder or a pack."""
    found = stored(results)
    if not found:
        raise nothing_in(results)
    return {one.place: one for one in found}


def choose(results: Path, named: Sequence[str], number: int) -> list[str]:
    """The runs to recompute: those named, else `number` random ones, of which those that train come first: a run without training
    would show little. Raises UserError for a name that is no run."""
    known = runs(results)
    for name in named:
        if name not in known:
            raise UserError(f"--run: {results} has no finished run {name!r}{did_you_mean(name, known)}")
    if named or not number:
        return list(named)
    drawn = random.sample(list(known), len(known))
    return sorted(drawn, key=lambda name: not _trains(known[name]))[:number]


def _trains(one: Stored) -> bool:
    """Whether its card has a training; a damaged record, which is told anyway, does not."""
    with suppress(UserError):
        card = one.content().get("card")
        return isinstance(card, dict) and card.get("training") is not None
    return False


def asks(one: Stored, data_root: Path | None = None, places: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """What a finished run would take to be done again, on the word of whoever made the record, beyond this package, the data
    root and the places that the reader named: the network, files, a long time. [] if nothing, or if the record is damaged."""
    try:
        record = parsed(one.content(), one.where)
    except UserError:
        return []  # and it is not done again
    scenario = from_record(Scenario, record.scenario, f"{one.where}: scenario")
    training = from_record(Card, record.card, f"{one.where}: card").training
    backbone = scenario.backbone
    found = []
    if backbone.weights != "embedded" and backbone.architecture != FEATURES:
        named = backbone.architecture if backbone.weights == "hub" else f"{backbone.architecture}:{backbone.weights}"
        found.append(f"the weights of {shown(named)}, from a file or the network")
    with suppress(UserError):  # data that are nowhere: told when it is done again
        named = _place(record, {}, data_root) if record.run.dataset not in places else ""
        each = [one for name in (named, scenario.train_on or "") for one in catalogue.members(name) or [name]]
        found += [f"the files of {shown(name)}" for name in each if catalogue.is_path(name)]
    images = _training_images(record)
    passes = round(sum(each.images for each in lengths(training, images, sum(images) / len(record.dataset.classes))))
    if passes > MOST_PASSES:
        found.append(f"training on {passes:,} images")
    return found


def _training_images(record: Record) -> list[float]:
    """Of each experience: in all as many as the dataset has, if it is a known one, or as the record says."""
    told, name, shots = record.dataset.train_images, record.run.dataset, record.run.shots
    known = [known for each in catalogue.members(name) or [name] if (known := catalogue.info(each))]
    if not known:
        return list(told)
    there = sum(one.train if isinstance(shots, str) else min(one.train, shots * one.classes) for one in known)
    return [max(each, there / len(told)) for each in told]


def recompute(one: Stored, settings: Settings, tell: Callable[[Event], None], train: Train,
              places: Mapping[str, str] = MappingProxyType({})) -> str:  # fmt: skip
    """Do a finished run again, elsewhere, from the images on: features are computed anew -> the first fact that differs, "" if
    none does; a damaged record is not done again, and what is wrong with it comes back.

    places: dataset -> where it lies now, else one's own data are looked for where the record says.

    Raises UserError if the run cannot be done here.
    """
    try:
        old = parsed(one.content(), one.where)
    except UserError as error:
        return str(error)
    scenario = from_record(Scenario, old.scenario, f"{one.where}: scenario")
    card = from_record(Card, old.card, f"{one.where}: card")
    with tempfile.TemporaryDirectory() as folder:
        runs = plan(
            scenario,
            Path(folder),
            datasets=[_place(old, places, settings.data_root)],
            methods=[bound_of(old.run.method)[0]],
            shots=[old.run.shots],
            seeds=[old.run.seed],
        )
        run = next((run for run in runs if (run.method, run.order) == (old.run.method, old.run.order)), None)
        if run is None:
            return f"run.order: {shown(old.run.order)} is none of its scenario's"
        cache = _without_features(settings.cache, Path(folder) / "cache")
        anew = replace(settings, jobs=1, linears=old.backbone.linears, cache=cache)
        failures = execute([replace(run, card=card)], anew, tell, train=train, publish=lambda *_: None)
        if failures:
            raise UserError(f"{old}: cannot be recomputed: {failures[0].text.strip().splitlines()[-1]}")
        new = read_record(run.folder / "record.json")
    new = replace(new, run=replace(new.run, dataset=old.run.dataset))  # a folder may be called otherwise now
    if old.same_images(new):  # though an earlier version wrote it otherwise
        new = replace(new, dataset=replace(new.dataset, fingerprint=old.dataset.fingerprint))
    found = difference(_facts(old), _facts(_as_far_as(old, new)))
    elsewhere = difference(_circumstances(old), _circumstances(new))
    return f"{found} ({elsewhere})" if found and elsewhere else found


def _place(record: Record, places: Mapping[str, str], data_root: Path | None) -> str:
    """How to name the dataset of a record now. UserError for one's own data that is nowhere."""
    name, named = record.run.dataset, record.dataset.named
    if (chain := catalogue.members(named)) and not places.get(name):
        return CHAIN.join(_single(record, catalogue.canonical(each), each, places, data_root) for each in chain)
    return _single(record, name, named, places, data_root)


def _single(record: Record, name: str, named: str, places: Mapping[str, str], data_root: Path | None) -> str:
    if place := places.get(name):
        if not catalogue.is_there(place, data_root):
            raise UserError(f"--data {name}={place}: no such file or folder (looked for in {Path.cwd()})")
        return place if catalogue.is_path(place) else f"./{place}"
    if not named or not catalogue.is_path(named) or (data_root is not None and (data_root / name).exists()):
        return name
    if not catalogue.is_there(named, data_root):
        raise UserError(f"{record}: its data were {named}, which is not in {Path.cwd()}; say where they are: --data {name}=PATH")
    return named


def _without_features(cache: Path, fresh: Path) -> Path:
    """A cache that has what the other has but its features: a run done again must not believe them."""
    fresh.mkdir()
    for name in ("hashes", "listings", "worlds"):
        (cache / name).mkdir(parents=True, exist_ok=True)
        (fresh / name).symlink_to((cache / name).resolve())
    return fresh


def _of_run(one: Stored) -> Iterator[str]:
    where = one.where
    try:
        content = one.content()
        record = parsed(content, where)
        hashes = [_hash(kind, json.dumps(facts), where) for kind, facts in (("scenario", record.scenario), ("card", record.card))]
    except UserError as error:
        yield str(error)
        return
    if "sha256" not in content:
        yield f"{where}: has no sha256, so a change would not be noticed"
    run = record.run
    place = run_place(catalogue.canonical(run.dataset), run.method, run.shots, run.seed, run.order)
    if one.place != place:
        yield f"{where}: is the run {place}, and lies elsewhere"
    if run.order not in _known_orders(json.dumps(record.scenario)):
        yield f"{where}: run.order: {shown(run.order)} is none of its scenario's"
    for its, facts, kind in zip(hashes, (record.scenario, record.card), ("scenario", "card"), strict=True):
        if facts.get("hash") != its:
            yield f"{where}: {kind}: its hash does not follow from it"
    for name, promised in record.files.items():
        try:
            check_file(one, name, promised)
        except UserError as error:
            yield str(error)


def _hash(kind: str, facts: str, where: str) -> str:
    """What the hash of a scenario or a card in a record should be. Raises UserError for what is none."""
    try:
        return _known_hash(kind, facts)
    except UserError:  # told with the place
        return content_hash(from_record(KINDS[kind], json.loads(facts), f"{where}: {kind}"))


@lru_cache(maxsize=1000)
def _known_hash(kind: str, facts: str) -> str:
    """Thousands of runs share a scenario and some cards."""
    return content_hash(from_record(KINDS[kind], json.loads(facts), kind))


@lru_cache(maxsize=1000)
def _known_orders(scenario: str) -> tuple[str, ...]:
    return tuple(orders_of(from_record(Scenario, json.loads(scenario), "scenario"))) or ("",)


def _derived(results: Path, derived: Derived) -> Iterator[str]:
    """records.csv and the tables, against what the records give now, and the scenario of a pack; of a pack alone nothing else."""
    contents = derived(results)
    if (pack := pack_of(results)) is not None and (text := scenario_text(pack)) is not None:
        contents["scenario.yaml"] = text
        yield from _of_scenario(pack, text)
    if results.is_file():
        return
    for name, content in contents.items():
        path = results / name
        try:
            if read_regular(path) != content.encode():
                yield f"{path}: does not follow from the records"
        except FileNotFoundError:
            yield f"{path}: is missing" + ("" if pack else "; 'lamm-cl run' writes it")
        except OSError as error:
            yield f"{path}: {error.strerror}"


def _of_scenario(pack: Path, text: str) -> Iterator[str]:
    """The scenario of a pack must be that of its records."""
    where = f"{pack}: scenario"
    scenario = from_record(Scenario, yaml_facts.parse(text.encode(), where), where)
    for one in stored(pack):
        theirs = from_record(Scenario, one.content()["scenario"], one.where)
        if differs := difference(identity(scenario), identity(theirs)):
            yield f"{one.where}: is of another scenario than the pack ({differs})"
            return


def _facts(record: Record) -> dict:
    """What must be the same, with names for the counts."""
    facts = record.facts()
    names = [f"{count.label_space}, trained {count.trained}, tested {count.tested}" for count in record.counts]
    return facts | {"counts": dict(zip(names, facts["counts"], strict=True))}


def _as_far_as(old: Record, new: Record) -> Record:
    """The new record without what an older version did not write: fields that came later are at their default there."""
    parts = {}
    for field in fields(Record):
        theirs, ours = getattr(old, field.name), getattr(new, field.name)
        if is_dataclass(theirs):
            later = {each.name for each in fields(theirs) if getattr(theirs, each.name) == each.default}
            parts[field.name] = replace(ours, **{name: getattr(theirs, name) for name in later})
    return replace(new, **parts, scenario=_known(Scenario, old.scenario, new.scenario), card=_known(Card, old.card, new.card))


def _known(model: type[Scenario] | type[Card], old: dict, new: dict) -> dict:
    """The new facts without keys that the old ones lack and that are at their default, as the hash has it."""
    defaults = {name: field.default for name, field in model.model_fields.items()}
    return {key: value for key, value in new.items() if key in old or value != _plain(defaults.get(key))}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _circumstances(record: Record) -> dict:
    return {"device": record.measured.device, "host": record.measured.host, "versions": record.measured.versions}
