"""Where finished runs lie: each in a folder of its own below runs/, or all in a pack. Whoever reads results asks here.

    results/<scenario>/runs/<dataset>/<method>/shots<k>-seed<s>/record.json      what runs write (-order<o> too, of several)
    results/<scenario>/records.pack                                              the same in one file; read where no runs/ lie
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from lamm_cl.errors import UserError, did_you_mean, shown
from lamm_cl.files import check_free, new_folder, open_regular
from lamm_cl.results.file import altered, check_bytes, content_of, parsed, read_bytes, text_of
from lamm_cl.results.pack import Entry, Pack, Packed, files_in, packed, read_pack
from lamm_cl.results.record import Record, by_size
from lamm_cl.results.remembered import remembered

PACK = "records.pack"
EXPECTED = "runs/<dataset>/<method>/shots<k>-seed<s>/record.json"


@dataclass(frozen=True)
class InFolder:
    """A finished run in a folder of its own."""

    path: Path  # of record.json

    @property
    def where(self) -> str:
        """As errors name it."""
        return str(self.path)

    @property
    def place(self) -> str:
        """As results.record.run_place."""
        return "/".join(self.path.parent.parts[-3:])

    def content(self) -> dict:
        """The JSON content of record.json."""
        return content_of(read_bytes(self.path), self.path)

    def record(self) -> Record:
        return remembered(self.path)

    def digest(self, name: str) -> str | None:
        """sha256 of one of the run's files. Raises UserError if it cannot be read."""
        path = self.file(name)
        try:
            with open_regular(path) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None

    def where_of(self, name: str) -> str:
        return str(self.path.parent / name)

    def file(self, name: str) -> Path:
        if name != os.path.basename(name) or "\0" in name or name in ("", ".", ".."):
            raise UserError(f"{self.path}: files: {shown(name)} is no name of a file beside it")
        return self.path.parent / name


Stored = InFolder | Packed


def stored(results: Path) -> list[Stored]:
    """The finished runs of a results folder or of a pack, by name; [] if none is finished. A folder's pack is read if it has no
    runs/. Raises UserError if there is nothing at this path, or a pack that is damaged."""
    pack = pack_of(results)
    if pack is not None:
        return list(read_pack(pack).runs)
    return [InFolder(path) for path in sorted(results.glob("runs/*/*/*/record.json"))]


def pack_of(results: Path) -> Path | None:
    """The pack that is read for this path; None for a folder with runs/, or without either."""
    if results.is_dir():
        pack, runs = results / PACK, next(results.glob("runs/*/*/*/record.json"), None)
        return pack if runs is None and pack.is_file() else None
    if results.is_file():
        return results
    beside = [path.name for path in results.parent.iterdir()] if results.parent.is_dir() else []
    raise UserError(f"{results}: no such results folder{did_you_mean(results.name, beside)}")


def loaded(results: Path) -> list[tuple[Stored, Record]]:
    """The finished runs, sorted by dataset, method, shots, seed and order. Raises UserError as `runs.records_in`."""
    found: dict = {}
    for one in stored(results):
        record = one.record()
        run = record.run
        key = (run.dataset, run.method, *by_size(run.shots), run.seed, run.order)
        if key in found:
            raise UserError(f"{one.where}: the run {record} is in this results folder twice")
        found[key] = one, record
    if len(names := sorted({record.run.scenario for _, record in found.values()})) > 1:
        raise UserError(f"{results}: holds runs of several scenarios ({', '.join(names)}); expected one")
    return [found[key] for key in sorted(found)]


def nothing_in(results: Path) -> UserError:
    """What is missing where a finished run was expected."""
    if (results / "records.csv").exists():
        return UserError(f"{results}: has records.csv but not the records it was made from: no {PACK}, no {EXPECTED}")
    return UserError(f"{results}: no finished run (no {EXPECTED})")


def check_writable(results: Path, instead: str) -> None:
    """Raises UserError for a pack, or a folder with a pack and no runs/: what was shipped is not written to."""
    if results.exists() and pack_of(results) is not None:
        raise UserError(f"{results}: finished runs in a pack, and nothing is written beside it; {instead}")


def pack(results: Path, with_tensors: bool) -> bytes:
    """All finished runs of `results` as the bytes of a pack. Raises UserError where there are none, or damaged ones."""
    found = loaded(results)
    if not found:
        raise nothing_in(results)
    entries = (Entry(one.place, one.content(), _files(one, record) if with_tensors else {}) for one, record in found)
    return packed(entries, len(found), scenario_text(results), with_tensors)


def check_replaced(pack: Path, results: Path) -> None:
    """Raises UserError if the file is no pack, or one with runs that are not in `results`."""
    there, here = ({one.place for one in stored(path)} for path in (pack, results))
    if gone := sorted(there - here):
        text = f"has {len(there):,} runs, {results} has {len(here):,}, without {shown(gone[0])}"
        raise UserError(f"{pack}: {text}; --replace writes it anew, or choose another --output")


def _files(one: Stored, record: Record) -> dict[str, bytes]:
    if isinstance(one, Packed):
        raise UserError(f"{one.where}: --with-tensors: can be packed from a folder with runs/ only")
    found = {name: read_bytes(one.file(name)) for name in record.files}
    for name, data in found.items():
        check_bytes(data, record.files[name], one.where_of(name))
    return found


def check_file(one: Stored, name: str, promised: str) -> None:
    """Raises UserError if one of a run's files, if it is there, has another sha256 than its record promised."""
    if one.digest(name) not in (promised, None):
        raise altered(one.where_of(name))


def scenario_text(results: Path) -> str | None:
    """scenario.yaml, of a folder or in a pack; None if there is none."""
    if (there := pack_of(results)) is not None:
        return read_pack(there).scenario
    path = results / "scenario.yaml"
    try:
        return read_bytes(path).decode() if path.exists() else None
    except UnicodeDecodeError:
        raise UserError(f"{path}: no text in UTF-8") from None


def unpack(results: Path, folder: Path) -> int:
    """Write the runs of a pack as a results folder, new and all at once -> how many.

    Every place in it is checked (`pack.PART`), every file is new, and all lies in a folder that was just made: what the pack
    says decides only the names below runs/. Raises UserError if `folder` exists and is not empty.
    """
    path = pack_of(results)
    if path is None:
        raise UserError(f"{results}: no pack; expected a file that 'lamm-cl pack' wrote")
    check_free(folder)
    whole = read_pack(path)
    with new_folder(folder) as temporary:
        _write(path, whole, temporary)
    return len(whole.runs)


def _write(path: Path, whole: Pack, folder: Path) -> None:
    promised = {}
    for one in whole.runs:
        content = one.content()
        promised[one.place] = parsed(content, one.where).files
        try:
            _write_new(folder / "runs" / one.place / "record.json", text_of(content).encode())
        except UnicodeEncodeError:
            raise UserError(f"{one.where}: holds what is no text") from None
    for place, name, data in files_in(path):
        if promised[place].get(name) != hashlib.sha256(data).hexdigest():
            raise UserError(f"{path}: {place}, {name}: its bytes are not those that its record was written with")
        _write_new(folder / "runs" / place / name, data)
    if whole.scenario is not None:
        _write_new(folder / "scenario.yaml", whole.scenario.encode(errors="replace"))


def _write_new(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        raise UserError(f"{path.name}: is in the pack twice, or in two spellings that are one here") from None
