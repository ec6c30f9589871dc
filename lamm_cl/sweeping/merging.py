"""Results that were made apart, put together: every record is checked, and runs that are there twice must agree."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lamm_cl.config.identity import difference, from_record, identity
from lamm_cl.config.schema import Scenario
from lamm_cl.errors import UserError
from lamm_cl.files import check_free, new_folder, write_atomic
from lamm_cl.results.file import check_bytes, read_bytes, text_of
from lamm_cl.results.pack import files_in
from lamm_cl.results.record import Record
from lamm_cl.results.runs import check_comparable
from lamm_cl.results.stored import InFolder, Stored, check_file, loaded, nothing_in, pack_of, scenario_text
from lamm_cl.sweeping import code
from lamm_cl.sweeping.publish import Derived


@dataclass(frozen=True)
class Part:
    """A finished run of one of the results that are put together."""

    results: Path
    one: Stored
    record: Record


def merge(several: Sequence[Path], output: Path, derived: Derived) -> tuple[int, int]:
    """Write the runs of several results folders or packs as one folder, new and all at once, with what follows from them -> how
    many runs, and how many were there twice.

    Raises UserError, and writes nothing, for a damaged record or file, for results of several protocols, cards, images, weights
    or versions of a method, and where a run is there twice and differs.
    """
    check_free(output)
    parts, twice = _parts(several)
    _check_alike(list(parts.values()))
    with new_folder(output) as temporary:
        _write(parts, temporary)
        texts = (scenario_text(results) for results in several)
        if text := next(filter(None, texts), None):
            write_atomic(temporary / "scenario.yaml", text)
        for name, content in derived(temporary).items():
            write_atomic(temporary / name, content)
    return len(parts), twice


def _parts(several: Sequence[Path]) -> tuple[dict[str, Part], int]:
    """Place -> run; of one that is there twice, that whose tensors are there too."""
    parts: dict[str, Part] = {}
    twice = 0
    for results in several:
        found = loaded(results)
        if not found:
            raise nothing_in(results)
        for one, record in found:
            place = record.place
            if one.place != place:
                raise UserError(f"{one.where}: is the run {place}, and lies elsewhere")
            for name, promised in record.files.items():
                check_file(one, name, promised)
            new, old = Part(results, one, record), parts.get(place)
            if old:
                twice += 1
                if differs := difference(old.record.facts(), record.facts()):
                    raise UserError(f"{one.where}: differs from the same run in {old.results} ({differs})")
            if not old or (isinstance(one, InFolder) and not isinstance(old.one, InFolder)):
                parts[place] = new
    return parts, twice


def _check_alike(parts: Sequence[Part]) -> None:
    """One protocol, and for each method one version of its code; and what any folder is asked for before its tables."""
    first = parts[0]
    protocol = identity(from_record(Scenario, first.record.scenario, f"{first.one.where}: scenario"))
    versions: dict[str, tuple[Part, dict[str, str]]] = {}
    for part in parts:
        name, hash_ = part.record.run.scenario, part.record.scenario.get("hash")
        if name != first.record.run.scenario:
            raise UserError(f"{part.results}: is of {name}, {first.results} of {first.record.run.scenario}; expected one of them")
        if hash_ != first.record.scenario.get("hash"):
            theirs = identity(from_record(Scenario, part.record.scenario, f"{part.one.where}: scenario"))
            differs = difference(protocol, theirs) or "hash: another version of lamm-cl"
            raise UserError(f"{part.results}: is of another scenario than {first.results} ({differs})")
        files = {file: hash_ for file, hash_ in part.record.code.items() if file.startswith(code.METHODS)}
        other, theirs = versions.setdefault(part.record.run.method, (part, files)) if files else (part, files)
        if differs := difference(theirs, files):
            raise UserError(f"{part.one.where}: other code of the method than {other.one.where} ({differs})")
    check_comparable(parts[-1].results, [part.record for part in parts])


def _write(parts: dict[str, Part], folder: Path) -> None:
    for place, part in parts.items():
        home = folder / "runs" / place
        write_atomic(home / "record.json", text_of(part.one.content()))
        if isinstance(part.one, InFolder):
            for name in part.record.files:
                _write_file(home, name, read_bytes(part.one.file(name)), part)
    for pack in {pack_of(part.results) for part in parts.values() if not isinstance(part.one, InFolder)}:
        for place, name, data in files_in(pack):
            if (part := parts[place]).one.where.startswith(f"{pack}:") and name in part.record.files:
                _write_file(folder / "runs" / place, name, data, part)


def _write_file(home: Path, name: str, data: bytes, part: Part) -> None:
    check_bytes(data, part.record.files[name], part.one.where_of(name))  # again: it may have changed since
    write_atomic(home / name, data)
