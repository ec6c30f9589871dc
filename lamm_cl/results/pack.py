"""Finished runs in one file, a pack, which every command that reads results takes in place of a folder with runs/.

A gzip stream (`zcat` shows it) of lines of JSON in ASCII, spaced exactly so:

    {"pack": 1, "runs": 48, "tensors": false, "scenario": "<the text of scenario.yaml, or null>"}
    {"run": "digits/coop/shots16-seed1", "record": {<the content of its record.json>}}    one a run, sorted as tables are
    {"file": "learned.safetensors", "base64": "..."}                                      of the run above, with tensors only
    {"sha256": "<of the lines above>"}

The same records give the same lines, and with one version of zlib the same bytes. A pack may come from anybody: sizes are
limited before and after decompression, nothing is read after the limit, and no line can name a link or a place to write to.
"""

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lamm_cl.errors import UserError, shown
from lamm_cl.files import open_regular
from lamm_cl.results.file import content_of, parsed
from lamm_cl.results.record import Record

FORMAT = 1
LARGEST_FILE = 2**30  # bytes as they lie on the disk
LARGEST_WHOLE = 2**31  # bytes of all lines
LARGEST_RECORDS = 2**29  # bytes of the lines of records, which are in memory at once
LARGEST_RECORD = 2**25  # a record can hold a million image ids
LARGEST_TENSORS = 2**28  # bytes of one line with a file
BLOCK = 2**20
HEAD = b"\x1f\x8b\x08\0\0\0\0\0\x02\xff"  # gzip: no name, no time, no system
RUN = re.compile(rb'\{"run": ("(?:[^"\\]|\\.){0,1000}"), "record": (\{.*\})\}')
NAME = r"[A-Za-z0-9_]{1,64}\.safetensors"
FILE = re.compile(rb'\{"file": "(' + NAME.encode() + rb')", "base64": "([A-Za-z0-9+/=]*)"\}')
SEAL = re.compile(rb'\{"sha256": "([0-9a-f]{64})"\}')
PART = re.compile(r"(?!\.\.?$)[^/\\\x00-\x1f\x7f\ud800-\udfff]+")


@dataclass(frozen=True)
class Packed:
    """A finished run in a pack; asked as `stored.InFolder` is."""

    where: str  # as errors name it
    place: str  # DATASET/METHOD/shotsK-seedS
    text: bytes
    digests: dict[str, str] | None  # file -> sha256; None if the pack was written without tensors

    def content(self) -> dict:
        """The JSON content of record.json."""
        return content_of(self.text, self.where)

    def record(self) -> Record:
        return parsed(self.content(), self.where)

    def digest(self, name: str) -> str | None:
        """sha256 of one of the run's files, None if nothing was promised. Raises UserError if it is missing."""
        if self.digests is None:
            return None
        if name not in self.digests:
            raise UserError(f"{self.where}: {shown(name)} is missing")
        return self.digests[name]

    def where_of(self, name: str) -> str:
        return f"{self.where}, {name}"


@dataclass(frozen=True)
class Pack:
    runs: tuple[Packed, ...]
    scenario: str | None  # the text of scenario.yaml
    tensors: bool


@dataclass(frozen=True)
class Entry:
    """What goes into a pack: a run's place, the content of its record.json, and its files or none."""

    place: str
    content: dict
    files: dict[str, bytes]


def packed(entries: Iterable[Entry], runs: int, scenario: str | None, tensors: bool) -> bytes:
    """The bytes of a pack. Raises UserError for what would be too large to be read."""
    lines = _lines_of(entries, {"pack": FORMAT, "runs": runs, "tensors": tensors, "scenario": scenario})
    compress, seal, crc, whole, out = zlib.compressobj(9, zlib.DEFLATED, -15), hashlib.sha256(), 0, 0, [HEAD]
    records = 0
    for line in lines:
        records += 0 if line.startswith(b'{"file"') else len(line)
        whole += len(line)
        if len(line) > _limit(line) or records > LARGEST_RECORDS or whole > LARGEST_WHOLE:
            raise UserError("pack: too large a pack; pack fewer runs, or without --with-tensors")
        seal.update(line)
        crc = zlib.crc32(line, crc)
        out.append(compress.compress(line))
    last = b'{"sha256": "%b"}\n' % seal.hexdigest().encode()
    crc, whole = zlib.crc32(last, crc), whole + len(last)
    return b"".join([*out, compress.compress(last), compress.flush(), _trailer(crc, whole)])


def _lines_of(entries: Iterable[Entry], first: dict) -> Iterator[bytes]:
    yield json.dumps(first).encode() + b"\n"
    for entry in entries:
        yield json.dumps({"run": entry.place, "record": entry.content}, allow_nan=False).encode() + b"\n"
        for name, data in sorted(entry.files.items()):
            if not re.fullmatch(NAME, name):
                raise UserError(f"pack: {entry.place}: {shown(name)} is no file of learned tensors")
            yield b'{"file": "%b", "base64": "%b"}\n' % (name.encode(), base64.b64encode(data))


def _trailer(crc: int, whole: int) -> bytes:
    return crc.to_bytes(4, "little") + (whole % 2**32).to_bytes(4, "little")


def read_pack(path: Path) -> Pack:
    """A pack whose seal was checked; the learned tensors in it are read, and of them their hashes kept.

    Raises UserError, in one line, for a file that is no pack, is damaged, is too large, or was changed since it was written.
    """
    first: dict = {}
    found: list[Packed] = []
    size = 0
    for number, line in enumerate(_sealed_lines(path), start=1):
        where = f"{path}: line {number}"
        if number == 1:
            first = _first(line, where)
        elif line.startswith(b'{"file"'):
            name, data = _file(line, where)
            digests = found[-1].digests if found else None
            if digests is None or name in digests:
                raise UserError(f"{where}: a file that belongs to no run")
            digests[name] = hashlib.sha256(data).hexdigest()
        else:
            size += len(line)
            if size > LARGEST_RECORDS:
                raise UserError(f"{path}: holds more than {LARGEST_RECORDS:,} bytes of records")
            place, text = _run(line, where)
            found.append(Packed(where, place, text, {} if first["tensors"] else None))
    if len({run.place for run in found}) != len(found) or len(found) != first["runs"]:
        raise UserError(f"{path}: expected {first['runs']} different runs, found {len({run.place for run in found})}")
    return Pack(tuple(found), first["scenario"], first["tensors"])


def files_in(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """(place of the run, name, content) of the files in a pack that `read_pack` has read, one at a time."""
    place = ""
    for number, line in enumerate(_sealed_lines(path), start=1):
        if line.startswith(b'{"file"'):
            yield (place, *_file(line, f"{path}: line {number}"))
        elif number > 1:
            place, _ = _run(line, f"{path}: line {number}")


def _first(line: bytes, where: str) -> dict:
    first = content_of(line, where)
    if first.get("pack") != FORMAT:
        raise UserError(f"{where}: pack: expected {FORMAT}; another version of lamm-cl wrote this")
    for key, kind in (("runs", int), ("tensors", bool), ("scenario", str | None)):
        if not isinstance(first.get(key), kind) or (kind is int and isinstance(first[key], bool)):
            raise UserError(f"{where}: {key}: found {shown(first.get(key))}")
    return first


def _run(line: bytes, where: str) -> tuple[str, bytes]:
    if not (match := RUN.fullmatch(line)):
        raise UserError(f"{where}: expected a run or a file of one, found {shown(line[:40])}")
    try:
        place = json.loads(match[1])
    except ValueError:
        place = ""
    parts = place.split("/")
    if len(parts) != 3 or not all(PART.fullmatch(part) and len(part.encode()) <= 255 for part in parts):
        raise UserError(f"{where}: run: expected DATASET/METHOD/shotsK-seedS, found {shown(place)}")
    return place, match[2]


def _file(line: bytes, where: str) -> tuple[str, bytes]:
    match = FILE.fullmatch(line)
    try:
        if match is None:
            raise ValueError
        return match[1].decode(), base64.b64decode(match[2], validate=True)
    except ValueError:
        raise UserError(f"{where}: no file of learned tensors") from None


def _sealed_lines(path: Path) -> Iterator[bytes]:
    """The lines of a pack without the last, which seals them: read no line as true before the end came without an error."""
    try:
        with open_regular(path) as file:
            if file.seek(0, 2) > LARGEST_FILE:
                raise UserError(f"{path}: larger than {LARGEST_FILE:,} bytes")
            file.seek(0)
            seal, last = hashlib.sha256(), None
            for line in _lines(_blocks(file, path), path):
                if last is not None:
                    seal.update(last + b"\n")
                    yield last
                last = line
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if not (match := SEAL.fullmatch(last or b"")):
        raise UserError(f"{path}: has no seal (the line with its sha256)")
    if match[1].decode() != seal.hexdigest():
        raise UserError(f"{path}: was changed since it was written (its sha256 is another)")


def _lines(blocks: Iterable[bytes], path: Path) -> Iterator[bytes]:
    coming = bytearray()
    for block in blocks:
        begin = len(coming)
        coming += block
        while (end := coming.find(b"\n", begin)) >= 0:
            _check_length(coming, end, path)
            yield bytes(coming[:end])
            del coming[: end + 1]
            begin = 0
        _check_length(coming, len(coming), path)
    if coming:
        raise UserError(f"{path}: damaged: its last line has no end")


def _check_length(line: bytearray, length: int, path: Path) -> None:
    limit = _limit(line)
    if length > limit:
        raise UserError(f"{path}: a line of more than {limit:,} bytes")


def _limit(line: bytes | bytearray) -> int:
    return LARGEST_TENSORS if line.startswith(b'{"file"') else LARGEST_RECORD


def _blocks(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """The decompressed stream in blocks of at most BLOCK bytes."""
    if file.read(len(HEAD)) != HEAD:
        raise UserError(f"{path}: is no pack; expected a results folder, or a file that 'lamm-cl pack' wrote")
    unzip, crc, whole = zlib.decompressobj(-15), 0, 0
    while not unzip.eof:
        coming = unzip.unconsumed_tail or file.read(BLOCK)
        if not coming:
            raise UserError(f"{path}: damaged: ends too early")
        try:
            block = unzip.decompress(coming, BLOCK)
        except zlib.error as error:
            raise UserError(f"{path}: damaged ({error})") from None
        crc, whole = zlib.crc32(block, crc), whole + len(block)
        if whole > LARGEST_WHOLE:
            raise UserError(f"{path}: more than {LARGEST_WHOLE:,} bytes when decompressed")
        if block:
            yield block
    if unzip.unused_data + file.read(9) != _trailer(crc, whole):  # what follows the stream; unconsumed_tail may repeat it
        raise UserError(f"{path}: damaged: its end does not fit what it holds")
