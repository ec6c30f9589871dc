"""Few-shot choice, images, one's own data, checks and downloads."""

import http.server
import io
import json
import math
import subprocess
import sys
import tarfile
import threading
import zipfile
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from layouts import picture, text, write
from PIL import Image

from lamm_cl.data import catalogue, check, fetch, fewshot, folders
from lamm_cl.data.fetch import ARCHIVES, Archive, download, extract
from lamm_cl.data.images import open_image
from lamm_cl.errors import UserError
from lamm_cl.mini.worlds import NAMES

FIDELITY = Path(__file__).parent / "fidelity"
DASSL = np.load(FIDELITY / "fewshot.npz")
LISTS = json.loads((FIDELITY / "cases.json").read_text())["fewshot"]["lists"]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def refusal(call, *arguments, **options):
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def relative(split):
    return [path.relative_to(split.images.folder).as_posix() for path in split.images]


# Few-shot choice


def dassl_labels(name, position, part):
    """The label list as the reference's README defines it; the file holds it too."""
    counts = LISTS[name][part]
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = labels[np.random.RandomState(LISTS[name]["perm_seed"] + position).permutation(len(labels))]
    assert labels.tolist() == DASSL[f"{name}/{part}_labels"].tolist()
    return labels


@pytest.mark.parametrize("name", ["odd", "even"])
@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_few_shot_choice_is_dassls_image_by_image_and_in_its_order(name, shots, seed):
    train_labels, val_labels = dassl_labels(name, 0, "train"), dassl_labels(name, 1, "val")

    train, val = fewshot.few_shot_pair(train_labels, val_labels, shots, seed)

    reference = f"{name}/fewshot/shots{shots}_seed{seed}"
    assert train.tolist() == DASSL[f"{reference}/train"].tolist()
    assert val.tolist() == DASSL[f"{reference}/val"].tolist()
    assert fewshot.few_shot(train_labels, shots, seed).tolist() == train.tolist()
    assert train.dtype == np.int64


@pytest.mark.parametrize("name", ["odd", "even"])
@pytest.mark.parametrize("half", ["base", "new"])
def test_the_halves_of_a_few_shot_choice_are_those_of_the_base_and_new_classes(name, half):
    labels = dassl_labels(name, 0, "train")
    n = len(LISTS[name]["train"])
    first = math.ceil(n / 2)
    classes = range(first) if half == "base" else range(first, n)

    chosen = fewshot.few_shot(labels, 4, 1)
    of_half = chosen[np.isin(labels[chosen], classes)]

    assert of_half.tolist() == DASSL[f"{name}/fewshot_then_{half}/train"].tolist()
    assert (labels[of_half] - classes[0]).tolist() == DASSL[f"{name}/fewshot_then_{half}/train_newlabels"].tolist()
    assert list(classes) == DASSL[f"{name}/fewshot_then_{half}/classname_ids"].tolist()
    assert np.flatnonzero(np.isin(labels, classes)).tolist() == DASSL[f"{name}/{half}/train"].tolist()


def test_without_shots_every_image_is_taken_in_order():
    assert fewshot.few_shot([2, 0, 1, 0], None, 1).tolist() == [0, 1, 2, 3]


def test_a_class_with_fewer_images_than_shots_is_taken_whole_and_leaves_the_others_choice_alone():
    small_first = [7, 7] + [3] * 9

    chosen = fewshot.few_shot(small_first, 4, seed=1)

    assert chosen[:2].tolist() == [0, 1]
    assert (chosen[2:] - 2).tolist() == fewshot.few_shot([3] * 9, 4, seed=1).tolist()


# Images


@pytest.mark.parametrize(
    ("mode", "suffix", "colour", "seen"),
    [
        ("RGB", "png", (10, 200, 30), (10, 200, 30)),
        ("RGBA", "png", (10, 200, 30, 0), (10, 200, 30)),
        ("L", "png", 77, (77, 77, 77)),
        ("LA", "png", (77, 0), (77, 77, 77)),
        ("1", "png", 1, (255, 255, 255)),
        ("CMYK", "tif", (0, 255, 255, 0), (255, 0, 0)),
        ("I;16", "png", 0x8080, (128, 128, 128)),
        ("I;16", "png", 200, (0, 0, 0)),
        ("I;16", "tif", 0xFFFF, (255, 255, 255)),
    ],
)
def test_an_image_of_any_mode_opens_as_rgb(mode, suffix, colour, seen, tmp_path):
    path = tmp_path / f"image.{suffix}"
    Image.new(mode, (4, 3), colour).save(path)

    image = open_image(path)

    assert image.mode == "RGB" and image.size == (4, 3)
    assert image.getpixel((1, 1)) == seen


def test_a_palette_image_opens_with_its_colours(tmp_path):
    Image.new("RGB", (4, 3), (250, 5, 5)).quantize(4).save(tmp_path / "image.gif", transparency=0)

    assert open_image(tmp_path / "image.gif").getpixel((0, 0)) == (250, 5, 5)


def test_exif_rotation_is_ignored_as_in_coops_pipeline(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by a quarter
    Image.new("RGB", (8, 4)).save(tmp_path / "image.jpg", exif=exif)

    assert open_image(tmp_path / "image.jpg").size == (8, 4)


def test_an_array_opens_as_the_image_it_is():
    array = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)

    assert np.array_equal(np.asarray(open_image(array)), array)


def broken(path, kind):
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "text":
        path.write_text("no image")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:-2000])
    return path


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "missing"])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_file_that_is_no_whole_image_is_refused_by_name(kind, suffix, tmp_path):
    path = broken(tmp_path / f"photo.{suffix}", kind)

    assert str(path) in refusal(open_image, path)


def test_an_eps_file_is_not_handed_to_an_interpreter(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.eps")

    assert "no image format" in refusal(open_image, tmp_path / "photo.eps")


# One's own data


def own_folder(home, classes=("cat", "dog"), parts=("",), images=10):
    for part in parts:
        for name in classes:
            for i in range(images):
                picture(home / part / name / f"{i:03d}.png")
    return home


def test_a_folder_of_class_folders_is_split_70_to_30_in_sorted_order(tmp_path, cache):
    own_folder(tmp_path / "pets")

    dataset = catalogue.load(str(tmp_path / "pets"), None, cache)

    assert dataset.name == "pets" and dataset.classes == ("cat", "dog")
    assert relative(dataset.train) == [f"{name}/{i:03d}.png" for name in ("cat", "dog") for i in range(7)]
    assert relative(dataset.test) == [f"{name}/{i:03d}.png" for name in ("cat", "dog") for i in range(7, 10)]
    assert dataset.train.labels.tolist() == [0] * 7 + [1] * 7
    assert "70%" in dataset.notes[0]


def test_a_folder_with_train_and_test_is_taken_as_it_is(tmp_path, cache):
    own_folder(tmp_path / "pets", parts=("train", "test"), images=2)

    dataset = catalogue.load(str(tmp_path / "pets"), None, cache)

    assert relative(dataset.train)[0] == "train/cat/000.png" and relative(dataset.test)[-1] == "test/dog/001.png"
    assert dataset.notes == ()


def test_own_data_is_found_by_name_under_the_data_root(tmp_path, cache):
    own_folder(tmp_path / "my_pets")

    assert catalogue.load("my_pets", tmp_path, cache).classes == ("cat", "dog")


def test_hidden_files_are_ignored_and_other_files_noted(tmp_path, cache):
    home = own_folder(tmp_path / "pets", parts=("train", "test"))
    text(home / "train" / "cat" / ".DS_Store", "x")
    text(home / "train" / "cat" / "notes.txt", "x")
    text(home / "train" / "README.txt", "x")

    dataset = catalogue.load(str(home), None, cache)

    assert len(dataset.train) == 20
    assert [note[:7] for note in dataset.notes] == ["1 files"]


def test_unicode_and_very_long_class_names_are_kept(tmp_path, cache):
    names = ("кошка", "a very long name " * 12 + "end", "犬")
    own_folder(tmp_path / "pets", classes=names)

    assert catalogue.load(str(tmp_path / "pets"), None, cache).classes == tuple(sorted(names))


@pytest.mark.parametrize(
    ("lines", "classes", "first"),
    [
        (["house cat", "hound"], ("house cat", "hound"), "cat"),
        (["dog big hound", "cat house cat"], ("big hound", "house cat"), "dog"),
        (["dog", "cat"], ("dog", "cat"), "dog"),
    ],
)
def test_classes_txt_names_the_class_folders_and_may_order_them(lines, classes, first, tmp_path, cache):
    home = own_folder(tmp_path / "pets")
    text(home / "classes.txt", *lines)

    dataset = catalogue.load(str(home), None, cache)

    assert dataset.classes == classes
    assert relative(dataset.train)[0].startswith(f"{first}/") and dataset.train.labels[0] == 0


def test_a_classes_txt_of_another_length_is_refused(tmp_path, cache):
    home = own_folder(tmp_path / "pets")
    text(home / "classes.txt", "cat", "dog", "fish")

    assert "classes.txt" in refusal(catalogue.load, str(home), None, cache)


ROWS = [(f"img/{name}{i}.png", name) for name in ("dog", "cat") for i in range(3)]


def own_list(home, content, name="list.json"):
    for path, _ in ROWS:
        picture(home / path)
    text(home / name, content)
    return str(home / name)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("list.json", json.dumps(ROWS)),
        ("list.json", json.dumps([{"class": name, "path": path} for path, name in ROWS])),
        ("list.csv", "".join(f"{path},{name}\n" for path, name in ROWS)),
        ("list.csv", "class,path\n" + "".join(f"{name},{path}\n" for path, name in ROWS)),
        ("list.csv", "path,class\n" + "".join(f'{path},"{name}"\n' for path, name in ROWS)),
    ],
)
def test_a_list_of_path_and_class_is_split_70_to_30(file, content, tmp_path, cache):
    dataset = catalogue.load(own_list(tmp_path / "mine", content, file), None, cache)

    assert dataset.classes == ("cat", "dog")
    assert relative(dataset.train) == ["img/cat0.png", "img/cat1.png", "img/dog0.png", "img/dog1.png"]
    assert relative(dataset.test) == ["img/cat2.png", "img/dog2.png"]
    assert len(dataset.notes) == 1


def test_a_list_may_name_the_split_of_each_image(tmp_path, cache):
    content = "".join(f"{path},{name},{'test' if '0' in path else 'train'}\n" for path, name in ROWS)

    dataset = catalogue.load(own_list(tmp_path, content, "list.csv"), None, cache)

    assert relative(dataset.test) == ["img/dog0.png", "img/cat0.png"]
    assert len(dataset.train) == 4 and dataset.notes == ()


def test_numbers_in_a_list_are_lines_of_classes_txt(tmp_path, cache):
    content = json.dumps([[path, ["dog", "cat"].index(name)] for path, name in ROWS])
    path = own_list(tmp_path, content)
    assert "classes.txt" in refusal(catalogue.load, path, None, cache)

    text(tmp_path / "classes.txt", "hound", "tabby cat")

    assert catalogue.load(path, None, cache).classes == ("hound", "tabby cat")


@pytest.mark.parametrize(
    "rows",
    [
        [["img/dog0.png"]],
        [["img/dog0.png", "dog", "training"]],
        [["img/dog0.png", "dog", "train"], ["img/cat0.png", "cat"]],
        [["/etc/passwd", "dog"], ["img/cat0.png", "cat"]],
        [["../outside.png", "dog"], ["img/cat0.png", "cat"]],
        [["img/absent.png", "dog"], ["img/cat0.png", "cat"]],
        [["img/dog0.png", 1.5]],
        ["img/dog0.png"],
        "img/dog0.png",
        [],
    ],
)
def test_a_bad_list_is_refused_by_name(rows, tmp_path, cache):
    path = own_list(tmp_path / "mine", json.dumps(rows))

    assert path in refusal(catalogue.load, path, None, cache)


@pytest.mark.parametrize(
    ("classes", "parts", "images", "named"),
    [
        (("hot_dog", "Hot Dog"), ("",), 4, "'Hot Dog'"),
        (("cat", "dog"), ("",), 1, "'cat'"),
        (("cat",), ("",), 4, "at least two"),
        (("cat", "dog"), ("train",), 4, "'train'"),
    ],
)
def test_a_folder_that_is_no_dataset_is_refused_with_the_reason(classes, parts, images, named, tmp_path, cache):
    own_folder(tmp_path / "mine", classes, parts, images)

    assert named in refusal(catalogue.load, str(tmp_path / "mine"), None, cache)


def test_train_and_test_with_different_classes_are_refused(tmp_path, cache):
    own_folder(tmp_path / "mine", ("cat", "dog"), ("train",))
    own_folder(tmp_path / "mine", ("cat", "fish"), ("test",))

    message = refusal(catalogue.load, str(tmp_path / "mine"), None, cache)

    assert "'dog'" in message and "'fish'" in message


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("OxfordPet", "did you mean 'OxfordPets'"),
        ("./absent", "absent"),
        ("ImageNet", "--data-root"),
        ("x", "./my-data"),
    ],
)
def test_an_unknown_or_missing_dataset_is_told_with_what_to_write(name, part, cache):
    assert part in refusal(catalogue.load, name, None, cache)


# The catalogue, fingerprints and the cache


@pytest.mark.parametrize("name", NAMES)
def test_the_embedded_worlds_load_as_the_catalogue_says(name, cache_of_session):
    info = next(info for info in catalogue.names() if info.name == name)

    dataset = catalogue.load(name, None, cache_of_session)

    assert info.embedded and dataset.template == "a photo of a {}."
    assert (len(dataset.classes), len(dataset.train), len(dataset.test)) == (info.classes, info.train, info.test)
    assert dataset.train.images.dtype == np.uint8 and dataset.train.images.shape[1:] == (48, 48, 3)


@pytest.fixture(scope="session")
def cache_of_session(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_the_catalogue_is_listed_without_torch_pillow_or_scipy():
    heavy = {"torch", "PIL", "scipy", "sklearn", "pandas", "matplotlib"}
    code = f"import sys; from lamm_cl.data import catalogue; catalogue.names(); print({heavy!r} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "spelling"),
    [
        ("cifar100", "CIFAR-100"),
        ("DescribableTextures", "DTD"),
        ("CUB_200_2011", "CUB-200"),
        ("./lists/mine.csv", "mine"),
        ("./v1.0", "v1.0"),
        ("./data/my-pets/", "my-pets"),
        ("mine", "mine"),
    ],
)
def test_records_keep_one_spelling_of_a_name(name, spelling):
    assert catalogue.canonical(name) == spelling


def test_a_large_folder_is_listed_once_until_it_changes(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(folders, "WORTH_CACHING", 10)
    home = own_folder(tmp_path / "pets", parts=("train", "test"))
    first = catalogue.load(str(home), None, cache)
    sized = []
    size = folders._size
    monkeypatch.setattr(folders, "_size", lambda entry: sized.append(entry) or size(entry))

    again = catalogue.load(str(home), None, cache)
    assert sized == [] and again.fingerprint == first.fingerprint

    picture(home / "train" / "cat" / "new.png")
    assert len(catalogue.load(str(home), None, cache).train) == len(first.train) + 1


def test_a_damaged_listing_is_made_again(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(folders, "WORTH_CACHING", 10)
    home = own_folder(tmp_path / "pets", parts=("train", "test"))
    first = catalogue.load(str(home), None, cache)
    for kept in (cache / "listings").iterdir():
        kept.write_text("{")

    assert catalogue.load(str(home), None, cache).fingerprint == first.fingerprint


# check


def test_check_names_the_unreadable_images_and_what_to_do(tmp_path, cache):
    home = write("OxfordPets", tmp_path)
    bad = [
        broken(home / "images" / "Abyssinian_1.jpg", "text"),
        broken(home / "images" / "Abyssinian_2.jpg", "truncated"),
        broken(home / "images" / "Abyssinian_3.jpg", "empty"),
    ]

    problems = [finding for finding in check.check(["oxfordpets"], tmp_path, cache) if finding.level == "problem"]

    assert [finding.text.partition(":")[0] for finding in problems] == [str(path) for path in bad]
    assert all(finding.dataset == "OxfordPets" and finding.fix for finding in problems)


def test_check_in_several_processes_finds_the_same(tmp_path, cache):
    home = write("OxfordPets", tmp_path)
    broken(home / "images" / "Abyssinian_2.jpg", "truncated")

    assert check.check(["OxfordPets"], tmp_path, cache, jobs=2) == check.check(["OxfordPets"], tmp_path, cache)


def test_check_does_not_blame_an_image_with_a_cameras_data_behind_its_end(tmp_path, cache):
    home = own_folder(tmp_path / "pets", parts=("train", "test"))
    picture(home / "train" / "cat" / "photo.jpg")
    with open(home / "train" / "cat" / "photo.jpg", "ab") as file:
        file.write(b"maker's notes")

    assert [finding.level for finding in check.check([str(home)], None, cache)] == ["ok"]


def test_check_says_where_a_missing_dataset_and_a_missing_split_file_come_from(tmp_path, cache):
    write("DTD", tmp_path, split=False)

    findings = check.check(["SUN397", "DTD"], tmp_path, cache)

    assert (
        "\n" not in findings[0].fix
        and findings[0].level == "problem"
        and "princeton" in findings[0].fix
        and "drive.google" in findings[0].fix
    )
    assert [finding.level for finding in findings[1:]] == ["note", "note"]
    assert "drive.google" in findings[2].fix and str(tmp_path / "dtd") in findings[2].fix


def test_check_reports_how_far_it_is(tmp_path, cache):
    own_folder(tmp_path / "pets", parts=("train", "test"), images=2)
    seen = []

    check.check(["pets"], tmp_path, cache, progress=lambda *step: seen.append(step))

    assert seen == [("pets", i, 8) for i in range(1, 9)]


# fetch


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files`, ranges too; `breaks` is after how many bytes the connection of the next answer ends."""

    files: dict[str, bytes] = {}
    asked: list[str | None] = []
    breaks: int | None = None

    def do_GET(self):
        content = self.files.get(self.path)
        if content is None:
            return self.send_error(404)
        span = self.headers.get("Range")
        Server.asked.append(span)
        start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop, Server.breaks = Server.breaks, None
        self.wfile.write(content[start:][:stop])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    Server.files, Server.asked, Server.breaks = {}, [], None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def tar(**files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def offer(monkeypatch, server, content, **options):
    Server.files = {"/toy.tar.gz": content}
    checksum = options.pop("checksum", md5(content).hexdigest())
    monkeypatch.setitem(ARCHIVES, "DTD", [Archive(f"{server}/toy.tar.gz", checksum, **options)])


def test_fetch_puts_the_checked_and_unpacked_folder_in_its_place(monkeypatch, server, tmp_path):
    offer(monkeypatch, server, tar(**{"dtd/images/banded/a.jpg": b"A", "dtd/labels/x.txt": b"x"}), gives="dtd/images")
    text(tmp_path / "dtd" / "split_zhou_DescribableTextures.json", "kept")

    placed = fetch.fetch("DTD", tmp_path)

    assert placed == [tmp_path / "dtd" / "images"]
    assert (tmp_path / "dtd" / "images" / "banded" / "a.jpg").read_bytes() == b"A"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dtd"]
    assert len(list((tmp_path / "dtd").iterdir())) == 2

    assert fetch.fetch("DTD", tmp_path) == []  # and nothing is downloaded again
    assert len(Server.asked) == 1


def test_fetch_unpacks_an_archive_within_an_archive(monkeypatch, server, tmp_path):
    inner = tar(**{"images/a.jpg": b"A"})
    outer = zipped({"toy/inner.tar.gz": inner})
    offer(monkeypatch, server, outer, gives="toy/images", inner="toy/inner.tar.gz")

    fetch.fetch("DTD", tmp_path)

    assert (tmp_path / "toy" / "images" / "a.jpg").read_bytes() == b"A"


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    content = bytes(range(256)) * 40
    Server.files, Server.breaks = {"/file": content}, 1000
    arguments = (f"{server}/file", tmp_path / "file", md5(content).hexdigest(), lambda *step: None)

    assert "goes on from there" in refusal(download, *arguments)
    assert (tmp_path / "file").stat().st_size == 1000
    download(*arguments)

    assert (tmp_path / "file").read_bytes() == content
    assert Server.asked == [None, "bytes=1000-"]


def test_a_download_with_another_checksum_is_refused_and_not_continued(monkeypatch, server, tmp_path):
    offer(monkeypatch, server, tar(**{"dtd/images/a.jpg": b"A"}), gives="dtd/images", checksum="0" * 32)

    assert "MD5" in refusal(fetch.fetch, "DTD", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_says_no_is_told_with_its_answer(monkeypatch, server, tmp_path):
    offer(monkeypatch, server, b"", gives="dtd/images")
    Server.files = {}

    assert "404" in refusal(fetch.fetch, "DTD", tmp_path)


def test_what_may_not_be_fetched_is_refused_with_what_may(tmp_path):
    assert "EuroSAT" in refusal(fetch.fetch, "ImageNet", tmp_path)


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/../../outside", "a\\..\\outside"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_with_a_path_out_of_it_is_refused(name, kind, tmp_path):
    (tmp_path / "archive").write_bytes(tar(**{name: b"x"}) if kind == "tar" else zipped({name: b"x"}))

    assert "archive" in refusal(extract, tmp_path / "archive", tmp_path / "target")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_an_archive_with_a_link_or_a_device_is_refused(kind, tmp_path):
    member = tarfile.TarInfo("innocent.jpg")
    member.type, member.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "archive", "w") as archive:
        archive.addfile(member)

    assert "innocent.jpg" in refusal(extract, tmp_path / "archive", tmp_path / "target")


def test_a_zip_archive_with_a_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("innocent.jpg")
    link.external_attr = 0o120777 << 16
    (tmp_path / "archive").write_bytes(zipped({link: "/etc/passwd"}))

    assert "innocent.jpg" in refusal(extract, tmp_path / "archive", tmp_path / "target")


def test_a_damaged_archive_is_refused_by_name(tmp_path):
    whole = tar(**{"a": b"x" * 5000})
    (tmp_path / "archive").write_bytes(whole[: len(whole) // 2])

    assert str(tmp_path / "archive") in refusal(extract, tmp_path / "archive", tmp_path / "target")


# --- folders as people have them ---------------------------------------------------------------------------------------

IDS = {"n01443537": "goldfish, Carassius auratus", "n02123045": "tabby, tabby cat", "n01641577": "bullfrog, Rana catesbeiana"}


def tiny_imagenet(home, ids=tuple(IDS)):
    """As it is unpacked: train/ID/images, val/images with a list, test/images without classes, ids in an order of their own."""
    for key in ids:
        for i in range(3):
            picture(home / "train" / key / "images" / f"{key}_{i}.JPEG", (12 + i, 10))
        text(home / "train" / key / f"{key}_boxes.txt", f"{key}_0.JPEG 0 0 5 5")
    for i in range(6):
        picture(home / "val" / "images" / f"val_{i}.JPEG", (12, 10 + i))
        picture(home / "test" / "images" / f"test_{i}.JPEG", (20, 10 + i))
    text(home / "val" / "val_annotations.txt", *(f"val_{i}.JPEG\t{ids[i % len(ids)]}\t0\t0\t9\t9" for i in range(6)))
    text(home / "wnids.txt", *ids)
    text(home / "words.txt", "n00001740\tentity", *(f"{key}\t{IDS[key]}" for key in sorted(ids)))
    return home


def test_tiny_imagenet_is_read_as_it_is_unpacked(tmp_path, cache):
    dataset = catalogue.load(str(tiny_imagenet(tmp_path / "tiny")), None, cache)

    assert dataset.classes == ("goldfish", "tabby", "bullfrog")  # by wnids.txt, not sorted
    assert relative(dataset.train)[3:5] == [f"train/n02123045/images/n02123045_{i}.JPEG" for i in (0, 1)]
    assert relative(dataset.test) == [f"val/images/val_{i}.JPEG" for i in (0, 3, 1, 4, 2, 5)]
    assert dataset.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.notes[0] == "val/ is the test set; test/ says no classes"
    assert "words.txt" in dataset.notes[-1]


def test_a_list_of_validation_images_that_names_no_class_of_train_is_told(tmp_path, cache):
    home = tiny_imagenet(tmp_path / "tiny")
    text(home / "val" / "val_annotations.txt", "val_0.JPEG\tn01443538\t0\t0\t9\t9")

    assert refusal(catalogue.load, str(home), None, cache).endswith("of train/, ...); did you mean 'n01443537'?")


@pytest.mark.parametrize("part", ["val", "valid", "validation"])
def test_a_validation_folder_is_the_test_set_where_there_is_none(part, tmp_path, cache):
    home = own_folder(tmp_path / "pets", parts=("train", part), images=2)

    dataset = catalogue.load(str(home), None, cache)

    assert relative(dataset.test)[0] == f"{part}/cat/000.png" and dataset.notes == (f"{part}/ is the test set",)


def test_a_validation_folder_beside_a_test_set_is_left_out_and_told(tmp_path, cache):
    dataset = catalogue.load(str(own_folder(tmp_path / "pets", parts=("train", "val", "test"), images=2)), None, cache)

    assert relative(dataset.test)[0] == "test/cat/000.png" and dataset.notes == ("val/ is left out",)


def test_wordnet_ids_without_names_are_asked_for(tmp_path, cache):
    home = own_folder(tmp_path / "pets", classes=tuple(IDS))
    assert "a words.txt" in " ".join(catalogue.load(str(home), None, cache).notes)

    text(home / "words.txt", "n01443537\tgoldfish", "n02123045\ttabby")
    assert "words.txt: no line for 'n01641577'" in refusal(catalogue.load, str(home), None, cache)


def test_a_word_that_two_ids_share_gives_way_to_the_next(tmp_path, cache):
    home = own_folder(tmp_path / "pets", classes=tuple(IDS))
    text(home / "words.txt", "n01443537\tfish, goldfish", "n02123045\ttabby", "n01641577\tfish, frog")

    assert catalogue.load(str(home), None, cache).classes == ("goldfish", "frog", "tabby")


@pytest.mark.parametrize("parts", [("train",), ("train", "tests"), ("photos/all",)])
def test_one_message_names_what_was_found_and_what_would_be_read(parts, tmp_path, cache):
    home = own_folder(tmp_path / "pets", parts=parts, images=1)
    text(home / "labels.txt", "x")

    told = refusal(catalogue.load, str(home), None, cache)

    assert "found labels.txt, " in told and f"{parts[-1].partition('/')[0]}/ (" in told and "folder" in told
    assert "read are class folders, or train/" in told and "\n" not in told
