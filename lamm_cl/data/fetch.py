"""Downloads of the datasets whose publishers offer them for the taking: resumable, checked, unpacked with care."""

import errno
import hashlib
import http.client
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO
from urllib.parse import urlsplit

from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.files import open_regular

CHUNK = 1 << 20
TIMEOUT = 60  # seconds without a byte
LARGEST = 2_000_000_000  # bytes; none of the archives has half of that
PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE,
         errno.EMFILE, errno.ENFILE, errno.EINTR}  # fmt: skip  not the archive's fault
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, struct.error, ValueError, RuntimeError)


class BadArchive(UserError):
    """What can never be unpacked, and need not be kept."""


@dataclass(frozen=True)
class Archive:
    """Unpacked in the folder `below` the data root it gives the folder `gives`; `inner`: an archive in the archive."""

    url: str
    md5: str
    gives: str
    below: str = ""
    inner: str | None = None


# URLs and checksums are those of the publishers' pages and of torchvision.datasets.
_CIFAR = "https://www.cs.toronto.edu/~kriz"
_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
_EUROSAT = "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd"
_CALTECH = "https://data.caltech.edu/records/mzrjq-6wc02/files"
ARCHIVES = {
    "CIFAR-10": [
        Archive(f"{_CIFAR}/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", "cifar-10-batches-bin")
    ],
    "CIFAR-100": [Archive(f"{_CIFAR}/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", "cifar-100-binary")],
    "Caltech101": [
        Archive(
            f"{_CALTECH}/caltech-101.zip",
            "3138e1922a9193bfa496528edbbc45d0",
            "caltech-101/101_ObjectCategories",
            inner="caltech-101/101_ObjectCategories.tar.gz",
        )
    ],
    "DTD": [Archive(f"{_VGG}/dtd/download/dtd-r1.0.1.tar.gz", "fff73e5086ae6bdbea199a49dfb8a4c1", "dtd/images")],
    "EuroSAT": [
        Archive(f"{_EUROSAT}/EuroSAT.zip", "c8fa014336c82ac7804f0398fcb19387", "eurosat/2750", below="eurosat")
    ],
    "OxfordPets": [
        Archive(
            f"{_VGG}/pets/data/images.tar.gz",
            "5c4f3ee8e5d25df40f4fd59a7f44e54c",
            "oxford_pets/images",
            below="oxford_pets",
        ),
        Archive(
            f"{_VGG}/pets/data/annotations.tar.gz",
            "95a8c909bbe2e81eed6a22bccdf3f68f",
            "oxford_pets/annotations",
            below="oxford_pets",
        ),
    ],
}

Progress = Callable[[str, int, int | None], None]  # file, bytes so far, bytes in all if the server says so


def fetch(name: str, data_root: Path, progress: Progress = lambda file, done, total: None) -> list[Path]:
    """Download and unpack one of ARCHIVES; returns the folders it put below the data root (those there already stay).

    An interrupted download goes on where it stopped; a folder appears whole or not at all. UserError for a dataset that
    cannot be fetched, a network that fails, a checksum that differs, and an archive with links or paths that leave it.
    """
    if name not in ARCHIVES:
        raise UserError(f"{name} cannot be fetched, only {', '.join(ARCHIVES)}{did_you_mean(name, ARCHIVES)}")
    new = [archive for archive in ARCHIVES[name] if not (data_root / archive.gives).exists()]
    for archive in new:
        part = data_root / f".{archive.url.rpartition('/')[2]}.part"
        part.parent.mkdir(parents=True, exist_ok=True)
        download(archive.url, part, archive.md5, progress)
        try:
            unpack(part, archive, data_root)
        except BadArchive:
            part.unlink()
            raise
        part.unlink()
    return [data_root / archive.gives for archive in new]


def download(url: str, path: Path, md5: str, progress: Progress) -> None:
    """The file at `url`, complete and with the right checksum, at `path`; a part of it there already is continued."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG((facts := path.lstat()).st_mode) or facts.st_size > LARGEST:
            raise UserError(f"{path}: is a link, a folder or a pipe, or huge; remove it, no download is continued there")
        if _md5(path) == md5:
            return
    with _told_as_network(url):
        _continue(url, path, progress)
    if (found := _md5(path)) != md5:
        path.unlink()  # or the next attempt would continue it
        raise UserError(f"{url}: MD5 {found} instead of {md5}; the file was damaged or has changed; fetch it again")


def _continue(url: str, path: Path, progress: Progress) -> None:
    with _part(path) as file:
        done = os.fstat(file.fileno()).st_size
        request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
        with urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT) as answer:
            if answer.status != 206:  # a server that knows no ranges sends the whole file, with status 200
                file.truncate(0)
                done = 0
            total = _stated(answer.headers.get("Content-Length"), done)
            while chunk := answer.read(CHUNK):
                done += len(chunk)
                if done > (total or LARGEST):
                    file.truncate(0)
                    raise UserError(f"{url}: sends more than {total or LARGEST:,} bytes; this is not the archive")
                file.write(chunk)
                progress(url.rpartition("/")[2], done, total)
    if total and done < total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")


def _part(path: Path) -> BinaryIO:
    """The part of a download that is there, to be continued: a file of its own and no link to another."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o644), "ab")


def _stated(length: str | None, done: int) -> int | None:
    """How many bytes there will be in all, by the server's word; None if it gives none."""
    if length is None:
        return None
    if not length.isdecimal() or done + int(length[:20]) > LARGEST:
        raise ConnectionError(f"the server states a length of {length[:30]!r}; at most {LARGEST:,} bytes are expected")
    return done + int(length)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Followed where they stay in their scheme, or go from http to https."""

    def redirect_request(self, request, answer, code, message, headers, url):
        schemes = (urlsplit(request.full_url).scheme, urlsplit(url).scheme)
        if len(set(schemes)) > 1 and schemes != ("http", "https"):
            raise UserError(f"{request.full_url}: redirects to {url[:200]}; only http to http or https is followed")
        return super().redirect_request(request, answer, code, message, headers, url)


@contextmanager
def _told_as_network(url: str) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as failure:
        if failure.code != 416:  # nothing lies beyond the part that is here: the checksum decides
            reason = " ".join(str(failure.reason).split())
            raise UserError(f"{url}: the server answers {failure.code} {reason}") from None
    except (OSError, http.client.HTTPException) as failure:
        raise UserError(f"{url}: {failure}; what has arrived is kept, the same command goes on from there") from None


def unpack(file: Path, archive: Archive, data_root: Path) -> None:
    with tempfile.TemporaryDirectory(dir=data_root, prefix=".unpack-") as temporary:
        extract(file, Path(temporary, archive.below))
        if archive.inner:
            inner = Path(temporary, archive.inner)
            extract(inner, inner.parent)
        if not Path(temporary, archive.gives).is_dir():
            raise BadArchive(f"{archive.url}: does not hold {archive.gives}/")
        (data_root / archive.gives).parent.mkdir(parents=True, exist_ok=True)
        os.replace(Path(temporary, archive.gives), data_root / archive.gives)


def extract(file: Path, folder: Path) -> None:
    """Write the files of a tar or zip archive below `folder`. UserError for a link, a device, or a path out of it."""
    try:
        with open(file, "rb") as stream:
            members = _zip_members if zipfile.is_zipfile(stream) else _tar_members
        for name, content in members(file):
            path = PurePosixPath(name)
            if content is None or path.is_absolute() or ".." in path.parts or "\\" in name:
                raise BadArchive(
                    f"{file}: {name!r} is a link, a device or a path out of the archive; nothing is unpacked"
                )
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "wb") as copy:
                shutil.copyfileobj(content, copy)
    except (*DAMAGED, OSError) as failure:
        kind = UserError if isinstance(failure, OSError) and failure.errno in PLACE else BadArchive
        raise kind(f"{file}: cannot be unpacked ({' '.join(str(failure).split())})") from failure


def _tar_members(file: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Names and contents of all but folders; no content for what is not a plain file."""
    with tarfile.open(file) as archive:
        for member in archive:
            if not member.isdir():
                yield member.name, archive.extractfile(member) if member.isreg() else None


def _zip_members(file: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if not member.is_dir():
                yield member.filename, archive.open(member) if kind in (0, stat.S_IFREG) else None


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)  # the publishers give no other checksum
    with open_regular(path) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
