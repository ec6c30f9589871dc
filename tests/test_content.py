"""Content decides what a dataset is: never a name, a size or a place; and what is left out of it is told."""

import json
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from generated import tiny_clip
from layouts import text
from PIL import Image

from lamm_cl.config.identity import difference
from lamm_cl.data import catalogue, check, hashes
from lamm_cl.data.dataset import BYTES, learned_from
from lamm_cl.errors import UserError
from lamm_cl.training import facts, run


def bitmap(path: Path, value: int) -> Path:
    """Files of one size, whatever they show."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value % 256, value // 256, 7)).save(path, "BMP")
    return path


def pets(home: Path, classes=("ant", "bee"), images=4) -> Path:
    for number, name in enumerate(classes):
        for i in range(images):
            bitmap(home / name / f"{i}.bmp", 100 * number + i)
    return home


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def load(path: Path | str, cache: Path | None):
    return catalogue.load(str(path), None, cache)


# --- fingerprints ------------------------------------------------------------------------------------------------------


def test_equal_names_and_sizes_with_other_pixels_are_another_dataset(tmp_path, cache):
    one, other = pets(tmp_path / "p" / "pets"), pets(tmp_path / "q" / "pets")
    for i in range(4):
        bitmap(other / "ant" / f"{i}.bmp", 900 + i)

    one, other = load(one, cache), load(other, cache)

    assert one.names_and_sizes == other.names_and_sizes
    assert one.fingerprint != other.fingerprint and one.fingerprint.startswith(BYTES)


def test_neither_names_of_files_nor_their_place_decide_the_fingerprint(tmp_path, cache, monkeypatch):
    home = pets(tmp_path / "pets")
    here = load(home, cache).fingerprint
    assert load(home, None).fingerprint == here

    for path in home.rglob("*.bmp"):
        path.rename(path.with_name(f"image {path.name}"))
    (tmp_path / "elsewhere").mkdir()
    home.rename(tmp_path / "elsewhere" / "pets")
    monkeypatch.chdir(tmp_path)

    assert load("./elsewhere/pets", cache).fingerprint == load("elsewhere/../elsewhere/pets", cache).fingerprint == here


def named(home: Path) -> None:
    text(home / "classes.txt", "ant red ant", "bee honey bee")


def moved(home: Path) -> None:
    (home / "ant" / "3.bmp").rename(home / "bee" / "9.bmp")


def painted(home: Path) -> None:
    bitmap(home / "bee" / "2.bmp", 999)


@pytest.mark.parametrize("change", [named, moved, painted])
def test_class_names_labels_and_pixels_decide_the_fingerprint(change, tmp_path, cache):
    home = pets(tmp_path / "pets")
    before = load(home, cache).fingerprint

    change(home)

    assert load(home, cache).fingerprint != before


def test_an_image_written_over_in_place_with_its_old_times_is_noticed(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(hashes, "SETTLED", 0)
    home = pets(tmp_path / "pets")
    before, file = load(home, cache).fingerprint, home / "bee" / "2.bmp"
    facts = file.stat()

    with file.open("r+b") as opened:
        opened.seek(-3, os.SEEK_END)
        opened.write(b"abc")
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))

    now = file.stat()
    assert (now.st_size, now.st_mtime_ns, now.st_ino) == (facts.st_size, facts.st_mtime_ns, facts.st_ino)
    assert load(home, cache).fingerprint != before


@pytest.fixture
def read(monkeypatch):
    """The files that are read."""
    monkeypatch.setattr(hashes, "SETTLED", 0)
    seen, digest = [], hashes._digest
    monkeypatch.setattr(hashes, "_digest", lambda path: seen.append(Path(path).name) or digest(path))
    return seen


def test_every_file_is_read_once_until_it_changes(tmp_path, cache, read):
    home = pets(tmp_path / "pets")
    first = load(home, cache)
    assert read == []  # nobody has asked
    assert first.fingerprint and len(read) == 8
    read.clear()

    assert load(home, cache).fingerprint == first.fingerprint
    assert read == []
    bitmap(home / "bee" / "7.bmp", 7)
    assert load(home, cache).fingerprint != first.fingerprint
    assert read == ["7.bmp"]
    read.clear()
    (home / "bee" / "7.bmp").unlink()
    assert load(home, cache).fingerprint == first.fingerprint
    assert read == []


def test_a_file_that_changed_a_moment_ago_is_not_remembered(tmp_path, cache, read, monkeypatch):
    monkeypatch.setattr(hashes, "SETTLED", 3600)
    home = pets(tmp_path / "pets")

    assert load(home, cache).fingerprint == load(home, cache).fingerprint

    assert len(read) == 16


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[:200], lambda whole: whole[:90] + b"\1" + whole[91:]])
def test_a_damaged_memory_of_hashes_is_made_again(damage, tmp_path, cache, read):
    home = pets(tmp_path / "pets")
    before = load(home, cache).fingerprint
    [kept] = (cache / "hashes").iterdir()
    kept.write_bytes(damage(kept.read_bytes()))
    read.clear()

    assert load(home, cache).fingerprint == before
    assert len(read) == 8


def test_many_files_are_hashed_in_threads_to_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(hashes, "BLOCK", 3)
    names = [f"{i}.bmp" for i in range(50)]
    for i, name in enumerate(names):
        bitmap(tmp_path / name, i)

    found = hashes.of_files(tmp_path, names, None, "")

    assert [row.tobytes() for row in found] == [sha256((tmp_path / name).read_bytes()).digest() for name in names]


def test_a_pipe_among_the_images_is_told_and_not_waited_for(tmp_path, cache):
    home = pets(tmp_path / "pets")
    (home / "ant" / "0.bmp").unlink()
    os.mkfifo(home / "ant" / "0.bmp")

    with pytest.raises(UserError, match="0.bmp: is a pipe or a device; expected an image file"):
        load(home, cache).fingerprint  # noqa: B018


def test_the_fingerprint_of_an_earlier_version_is_recognised_by_names_and_sizes(tmp_path, cache):
    home = pets(tmp_path / "pets")
    dataset = load(home, cache)
    listing = "".join(f"{name}/{i}.bmp\0{(home / name / f'{i}.bmp').stat().st_size}\n" for part in (range(3), range(3, 4))
                      for name in ("ant", "bee") for i in part)  # fmt: skip
    labels = [np.repeat([0, 1], n).astype("<i8").tobytes() for n in (3, 1)]
    old = sha256(b"ant\0bee" + b"".join(b"\0labels\0" + each for each in labels) + listing.encode()).hexdigest()

    assert dataset.recognises(old) and dataset.recognises(dataset.fingerprint)
    assert not dataset.recognises("0" * 64) and not dataset.recognises(f"{BYTES}{old}")
    moved(home)
    assert not load(home, cache).recognises(old)


def test_what_is_learned_from_another_dataset_is_recognised_too(tmp_path, cache):
    tested, source = load(pets(tmp_path / "tested"), cache), load(pets(tmp_path / "source", ("ant", "bee", "cat")), cache)

    joined = learned_from(tested, source)

    assert joined.fingerprint.startswith(BYTES)
    assert joined.recognises(sha256(f"{tested.names_and_sizes} {source.names_and_sizes}".encode()).hexdigest())


# --- what is left out, or there twice ----------------------------------------------------------------------------------


def test_images_in_nested_folders_and_beside_the_class_folders_are_told(tmp_path, cache):
    home = pets(tmp_path / "pets")
    bitmap(home / "ant" / "young" / "0.bmp", 1)
    bitmap(home / "stray.bmp", 2)

    notes = load(home, cache).notes

    assert "1 folders inside class folders of pets/ are left out with all that is in them" in notes
    assert "1 images beside the class folders of pets/ are left out" in notes


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["ant red ant", "beee honey bee"], "'beee honey bee' begins with no class folder's name, as 'ant red ant' does; "
         "did you mean 'bee'?; write FOLDER NAME in every line"),
        (["bee", "wasp"], "'wasp' begins with no class folder's name, as 'bee' does"),
        (["ant red ant", "ant honey bee"], "no line for the class folder 'bee', and two for another"),
    ],
)  # fmt: skip
def test_if_one_line_of_classes_txt_begins_with_a_folders_name_all_must(lines, told, tmp_path, cache):
    home = pets(tmp_path / "pets")
    text(home / "classes.txt", *lines)

    with pytest.raises(UserError) as refused:
        load(home, cache)
    assert told in str(refused.value)


def test_a_folders_name_may_have_spaces_in_classes_txt(tmp_path, cache):
    home = pets(tmp_path / "pets", ("hot", "hot dog"))
    text(home / "classes.txt", "hot dog sausage", "hot warm")

    dataset = load(home, cache)

    assert dataset.classes == ("sausage", "warm") and dataset.train.images[0].parent.name == "hot dog"


def listing(home: Path, rows: list, name="list.json") -> Path:
    pets(home / "img")
    return text(home / name, json.dumps(rows)) or home / name


ROWS = [[f"img/{name}/{i}.bmp", name] for name in ("ant", "bee") for i in range(4)]


@pytest.mark.parametrize(
    ("rows", "again"),
    [
        (ROWS + ROWS, 8),
        ([*ROWS, ["img/ant/../ant/0.bmp", "ant"]], 1),
        ([[*row, part] for part in ("train", "test") for row in ROWS for _ in range(2)], 16),
        ({part: [[path, 0 if name == "ant" else 1, name] for path, name in ROWS * 2] for part in ("train", "test")}, 16),
    ],
)
def test_an_image_that_a_list_names_twice_is_counted_once(rows, again, tmp_path, cache):
    dataset = load(listing(tmp_path, rows), cache)

    images = [str(path) for path in (*dataset.train.images, *dataset.test.images)]
    assert len(dataset.train) + len(dataset.test) == len(images) == (8 if again in (1, 8) else 16)
    assert f"{again} lines of list.json name an image again; each is counted once" in dataset.notes


@pytest.mark.parametrize(
    "rows", [[*ROWS, ["img/ant/0.bmp", "bee"]], [[*row, "train"] for row in ROWS] + [["./img/ant/0.bmp", "bee", "test"]]]
)
def test_an_image_under_two_classes_is_refused(rows, tmp_path, cache):
    with pytest.raises(UserError, match="0.bmp' is listed under 'ant' and 'bee'; an image has one class"):
        load(listing(tmp_path, rows), cache)


# --- the bank of features ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pillow", "torchvision", "open_clip_torch"])
def test_another_version_of_what_decodes_and_resizes_has_its_own_features(name, monkeypatch):
    here = run.facts_of_features(tiny_clip())
    version = facts.version
    monkeypatch.setattr(facts, "version", lambda package: "0" if package == name else version(package))

    assert difference(here, run.facts_of_features(tiny_clip())) == f"{name}: {version(name)!r}, now '0'"


def test_another_kind_of_processor_has_its_own_features(monkeypatch):
    here = run.facts_of_features(tiny_clip())
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")

    assert difference(here, run.facts_of_features(tiny_clip())).startswith("cpu: ")


# --- class names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("n01440764", "n01443537", "tench"), ("0", "1", "two")])
def test_class_names_that_are_wordnet_ids_or_numbers_are_shown_and_questioned(names, tmp_path, cache):
    home = pets(tmp_path / "pets", names)
    told = f"'{names[0]}', '{names[1]}': 2 class names are numbers or WordNet ids, and prompts say them; is that meant?"
    assert any(note.startswith(told) for note in load(home, cache).notes)

    text(home / "classes.txt", *(f"{name} animal {i}" for i, name in enumerate(names)))

    assert not any("WordNet" in note for note in load(home, cache).notes)


def test_check_shows_the_class_names_that_prompts_will_say(tmp_path, cache):
    home = pets(tmp_path / "pets", ("ant_hill", "bee", "cat", "dog", "eel"))

    counts, *_ = check.check([str(home)], None, cache)

    assert counts.level == "ok" and counts.text.endswith("test images; prompts say 'ant hill', 'bee', 'cat' and 2 more")
