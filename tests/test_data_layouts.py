"""The published folder layouts, read from miniatures of them, and what bad lists and folders get."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from layouts import EXPECTED, IMAGENET, ORIGINALS, SPLIT_FILES, picture, text, write

from lamm_cl.data.catalogue import load
from lamm_cl.data.check import check
from lamm_cl.data.images import open_image
from lamm_cl.errors import UserError


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def read(name, root):
    return load(name, root, root.parent / "cache")


def relative(split):
    return [path.relative_to(split.images.folder).as_posix() for path in split.images]


def edit_split(name, root, change):
    path = root / SPLIT_FILES[name]
    split = json.loads(path.read_text())
    change(split)
    path.write_text(json.dumps(split))


def refusal(name, root):
    with pytest.raises(UserError) as caught:
        read(name, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_there_are_fifteen_published_layouts():
    assert len(ORIGINALS) == 15


@pytest.mark.parametrize("name", EXPECTED)
def test_a_published_layout_gives_its_classes_counts_and_template(name, root):
    write(name, root)

    dataset = read(name, root)

    expected = EXPECTED[name]
    n = len(expected.classes)
    assert dataset.name == name
    assert dataset.classes == expected.classes
    assert dataset.template == expected.template
    assert np.bincount(dataset.train.labels, minlength=n).tolist() == [expected.train] * n
    assert np.bincount(dataset.test.labels, minlength=n).tolist() == [expected.test] * n
    assert dataset.train.labels.dtype == dataset.test.labels.dtype == np.int64
    assert dataset.notes == ()
    assert open_image(dataset.test.images[0]).mode == "RGB"


@pytest.mark.parametrize("name", EXPECTED)
def test_a_miniature_checks_clean_but_for_its_counts(name, root):
    write(name, root)

    findings = check([name], root, root.parent / "cache")

    assert [finding.level for finding in findings] == ["note"]
    assert "published" in findings[0].text


@pytest.mark.parametrize("name", SPLIT_FILES)
def test_with_a_split_file_the_images_and_their_order_are_those_of_the_file(name, root):
    home = write(name, root)
    split = json.loads((root / SPLIT_FILES[name]).read_text())

    dataset = read(name, root)

    for part, mine in (("train", dataset.train), ("test", dataset.test)):
        listed = [path for path, _, _ in split[part]]
        assert [path[-len(other) :] for path, other in zip(relative(mine), listed, strict=True)] == listed
        assert mine.labels.tolist() == [label for _, label, _ in split[part]]
    assert dataset.train.images.folder == home


@pytest.mark.parametrize("name", SPLIT_FILES)
def test_without_the_split_file_the_documented_rule_builds_one_and_the_notes_say_so(name, root):
    write(name, root)
    with_file = read(name, root)
    (root / SPLIT_FILES[name]).unlink()

    built = read(name, root)

    assert built.classes == with_file.classes
    assert len(built.train) == len(
        with_file.train
    )  # the miniatures' counts are 50/20/30% and 80/20% of eleven and eight
    assert len(built.test) == len(with_file.test)
    assert not set(relative(built.train)) & set(relative(built.test))
    assert len(built.notes) == 1 and Path(SPLIT_FILES[name]).name in built.notes[0]
    assert built.fingerprint == read(name, root).fingerprint != with_file.fingerprint


@pytest.mark.parametrize("name", ["OxfordPets", "StanfordCars", "SUN397", "UCF101"])
def test_a_published_test_list_is_kept_when_the_split_is_built(name, root):
    write(name, root)
    published = set(relative(read(name, root).test))
    (root / SPLIT_FILES[name]).unlink()

    assert set(relative(read(name, root).test)) == published


@pytest.mark.parametrize("written", ["oxfordpets", "OXFORD_PETS", "OxfordPets"])
def test_names_are_matched_whatever_their_case(written, root):
    write("OxfordPets", root)

    assert read(written, root).name == "OxfordPets"


def test_caltech101_leaves_out_the_background_and_the_second_faces(root):
    write("Caltech101", root, split=False)

    dataset = read("Caltech101", root)

    assert not [
        path for path in relative(dataset.train) + relative(dataset.test) if "BACKGROUND" in path or "easy" in path
    ]


def test_imagenet_v2_folders_count_in_numbers_not_in_letters(root):
    home = write("ImageNetV2", root)
    images = "imagenetv2-matched-frequency-format-val"
    text(home / "classnames.txt", *(f"n{i:08d} class {chr(97 + i)}" for i in range(11)))
    for label in range(11):
        picture(home / images / str(label) / "x.jpeg")

    dataset = read("ImageNetV2", root)

    assert dataset.classes == tuple(f"class {chr(97 + i)}" for i in range(11))
    assert {
        path.split("/")[1]
        for path, label in zip(relative(dataset.test), dataset.test.labels, strict=True)
        if label == 10
    } == {"10"}


def test_a_copy_of_classnames_is_not_needed_beside_imagenet_itself(root):
    write("ImageNet", root)
    home = write("ImageNet-A", root)
    (home / "classnames.txt").unlink()

    assert read("ImageNet-A", root).classes == EXPECTED["ImageNet-A"].classes


def test_the_two_names_that_imagenets_own_list_has_twice_are_let_through_and_no_others(root):
    home = write("ImageNet", root)
    keys = list(IMAGENET)
    text(
        home / "classnames.txt",
        *(f"{key} {name}" for key, name in zip(keys, ["missile", "missile", "a", "b"], strict=True)),
    )
    assert read("ImageNet", root).classes == ("missile", "missile", "a", "b")

    text(
        home / "classnames.txt",
        *(f"{key} {name}" for key, name in zip(keys, ["crane", "crane", "a", "b"], strict=True)),
    )
    assert "'crane'" in refusal("ImageNet", root)


def test_imagenet_r_for_class_incremental_learning_tests_on_every_fifth_image(root):
    home = write("ImageNet-R", root)
    for key in ("n01443537", "n02123045"):
        for i in range(3, 10):
            picture(home / "imagenet-r" / key / f"art_{i}.jpg")

    dataset = read("ImageNet-R-CIL", root)

    assert relative(dataset.test) == [
        f"imagenet-r/{key}/art_{i}.jpg" for key in ("n01443537", "n02123045") for i in (4, 9)
    ]
    assert len(dataset.train) == 16 and "not the published" in dataset.notes[0]


def test_cifar_pixels_come_out_as_rows_of_red_green_blue(root):
    write("CIFAR-100", root)

    image = read("CIFAR-100", root).train.images[2]  # of class 2, see layouts.cifar_record

    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    assert image[0, 31].tolist() == [255, 2, 0] and image[1, 0].tolist() == [255, 0, 0]


def test_cifar_as_folders_of_image_files_is_read_in_the_published_order(root):
    for part in ("train", "test"):
        for name in ("bird", "airplane", "automobile"):
            picture(root / "cifar10" / part / name / "0001.png")

    dataset = read("CIFAR-10", root)

    assert dataset.name == "CIFAR-10" and dataset.classes == ("airplane", "automobile", "bird")


def test_mnist_is_read_from_idx_files_gzipped_or_not_as_images_in_colour(root):
    write("MNIST", root)

    dataset = read("MNIST", root)

    assert dataset.train.images.shape == (20, 3, 5, 3) and dataset.test.images.shape == (10, 3, 5, 3)
    assert dataset.train.labels[0] == 9 and (dataset.train.images[0] == 180).all()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t10k-images-idx3-ubyte", bytes([0, 0, 8, 3, 0, 0, 0, 10, 0, 0, 0, 3, 0, 0, 0, 5, *[0] * 149]), "149 bytes behind its"),
        ("t10k-labels-idx1-ubyte", b"\0\0\x0d\x01\0\0\0\0", "no idx file of unsigned bytes in 1 dimensions"),
        ("train-images-idx3-ubyte.gz", b"no gzip", "cannot be read"),
    ],
)
def test_a_damaged_file_of_mnist_is_refused(root, name, content, told):
    (write("MNIST", root) / name).write_bytes(content)

    assert name in refusal("MNIST", root) and told in refusal("MNIST", root)


def test_a_cifar_file_of_the_wrong_length_is_refused(root):
    home = write("CIFAR-10", root)
    with open(home / "data_batch_3.bin", "ab") as file:
        file.write(b"\0")

    assert "data_batch_3.bin" in refusal("CIFAR-10", root)


# What bad input gets: one line that names the file and the thing in it.


def test_a_missing_folder_is_named_with_the_way_to_get_it(root):
    message = refusal("EuroSAT", root)

    assert str(root / "eurosat") in message and "data fetch EuroSAT" in message


def test_absent_images_of_a_split_file_are_named(root):
    home = write("DTD", root)
    (home / "images" / "banded" / "banded_0001.jpg").unlink()

    message = refusal("DTD", root)

    assert "split_zhou_DescribableTextures.json" in message and "images/banded/banded_0001.jpg" in message


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../secret.jpg", "banded/../../../../secret.jpg", "banded\\..\\x.jpg", ""]
)
def test_a_path_that_leaves_the_data_folder_is_refused(path, root):
    write("DTD", root)
    picture(root.parent / "secret.jpg")
    edit_split("DTD", root, lambda split: split["train"][0].__setitem__(0, path))

    assert "leaves the data folder" in refusal("DTD", root) if path else "absent" in refusal("DTD", root)


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_a_link_that_leaves_the_data_folder_is_refused(linked, root):
    home = write("DTD", root)
    outside = root.parent / "elsewhere"
    target = home / "images" / "banded" / ("banded_0001.jpg" if linked == "file" else "")
    outside.mkdir()
    os.rename(target, outside / "moved")
    os.symlink(outside / "moved", str(target).rstrip("/"))

    assert "link that leaves" in refusal("DTD", root)


def test_a_dataset_folder_may_itself_be_a_link_as_coop_recommends(root):
    home = write("DTD", root)
    os.rename(home, root.parent / "elsewhere")
    os.symlink(root.parent / "elsewhere", home)

    assert read("DTD", root).classes == EXPECTED["DTD"].classes


def test_a_label_gap_is_refused_with_the_missing_label(root):
    write("DTD", root)

    def shift(split):
        for row in split["train"] + split["val"] + split["test"]:
            row[1] = {0: 0, 1: 1, 2: 3}[row[1]]

    edit_split("DTD", root, shift)

    assert "label 2" in refusal("DTD", root)


@pytest.mark.parametrize("label", [-1, 10**12])
def test_a_label_far_off_is_refused(label, root):
    write("DTD", root)
    edit_split("DTD", root, lambda split: split["train"][0].__setitem__(1, label))

    assert "label" in refusal("DTD", root)


def test_one_label_with_two_names_is_refused(root):
    write("DTD", root)
    edit_split("DTD", root, lambda split: split["test"][0].__setitem__(2, "bandaged"))

    message = refusal("DTD", root)

    assert "'banded'" in message and "'bandaged'" in message


@pytest.mark.parametrize("other", ["Hot_Dog", "hot dog", "hot__dog"])
def test_class_names_that_become_one_after_cleaning_are_refused_with_both(other, root):
    write("DTD", root)

    def rename(split):
        for row in split["train"] + split["val"] + split["test"]:
            row[2] = {0: "hot_dog", 1: "blotchy", 2: other}[row[1]]

    edit_split("DTD", root, rename)

    message = refusal("DTD", root)

    assert "'hot_dog'" in message and repr(other) in message


@pytest.mark.parametrize("name", ["", "__", "a\x1b[31m", "\ud800"])
def test_a_class_name_that_is_no_text_is_refused(name, root):
    write("DTD", root)

    def rename(split):
        for row in split["train"] + split["val"] + split["test"]:
            row[2] = name if row[1] == 0 else row[2]

    edit_split("DTD", root, rename)

    assert "class 0" in refusal("DTD", root)


def test_a_class_without_test_images_is_refused_by_name(root):
    write("DTD", root)
    edit_split("DTD", root, lambda split: split.update(test=[row for row in split["test"] if row[1] != 1]))

    message = refusal("DTD", root)

    assert "test" in message and "'blotchy'" in message


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"train": []}', '{"train": {}, "test": []}', '{"train": [["a.jpg", 0]], "test": []}',
     '{"train": [["a.jpg", "zero", "cat"]], "test": []}', '{"train": [["a.jpg", true, "cat"]], "test": []}', "\xff"],
)  # fmt: skip
def test_a_malformed_split_file_is_refused_by_name(content, root):
    write("DTD", root)
    (root / SPLIT_FILES["DTD"]).write_bytes(content.encode("latin-1"))

    assert "split_zhou_DescribableTextures.json" in refusal("DTD", root)


def test_images_in_both_train_and_test_are_noted(root):
    write("DTD", root)
    edit_split("DTD", root, lambda split: split["test"].append(split["train"][0]))

    assert "in train and in test" in read("DTD", root).notes[0]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("OxfordPets", "annotations/test.txt"),
        ("SUN397", "Training_01.txt"),
        ("UCF101", "ucfTrainTestlist/trainlist01.txt"),
        ("FGVCAircraft", "images_variant_train.txt"),
        ("StanfordCars", "devkit/cars_meta.mat"),
        ("Flowers102", "imagelabels.mat"),
        ("Flowers102", "cat_to_name.json"),
        ("CUB-200", "images.txt"),
        ("ImageNet", "classnames.txt"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_a_missing_or_damaged_list_is_refused(name, file, damage, root):
    home = write(name, root, split=False)
    (home / file).unlink()
    if damage == "garbage":
        text(home / file, "neither here nor there", "0")

    message = refusal(name, root)

    assert str(home) in message


def test_an_imagenet_class_folder_without_a_name_is_refused(root):
    home = write("ImageNet-R", root)
    picture(home / "imagenet-r" / "n99999999" / "art_0.jpg")

    assert "n99999999" in refusal("ImageNet-R", root)


def test_imagenets_train_and_val_must_have_the_same_classes(root):
    home = write("ImageNet", root)
    picture(home / "images" / "val" / "n01484850x" / "a.JPEG")
    text(home / "classnames.txt", *(f"{key} {name}" for key, name in IMAGENET.items()), "n01484850x other")

    assert "n01484850x" in refusal("ImageNet", root)


def test_an_empty_class_folder_is_refused_by_name(root):
    home = write("ImageNet", root)
    for path in (home / "images" / "train" / "n01440764").iterdir():
        path.unlink()

    assert "'tench'" in refusal("ImageNet", root)
