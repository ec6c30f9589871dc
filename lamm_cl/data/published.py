"""The fifteen datasets of the CLIP prompt-learning papers, in CoOp's folder layout (its DATASETS.md), unchanged.

The author's split file, `split_zhou_<name>.json`, decides where it is present. Without it the split is built by the
rule the file was made with; that rule shuffles, so the published split is met only by luck, and the notes say so.
"""

import random
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lamm_cl.data.dataset import TEMPLATE, Dataset, Entry, ImageFile, assemble, by_label, class_names, listed, measure
from lamm_cl.data.folders import ClassFolders, class_folders
from lamm_cl.data.lists import read_json, read_lines, read_mat, read_names, read_rows, read_split
from lamm_cl.data.own import load_own
from lamm_cl.errors import UserError

Lists = tuple[list[Entry], list[Entry]]  # train, test

# CLIP's own list, from which classnames.txt was copied, gives these names to two classes each.
TWICE = frozenset({"missile", "sunglasses"})


@dataclass(frozen=True)
class Listed:
    """A dataset whose images are listed in files: in the split file, or in those that `build` reads."""

    build: Callable[[Path], Lists]
    images: str = ""  # the folder the split file's paths start from, with a slash
    split: str | None = None
    template: str = TEMPLATE

    def load(self, name: str, folder: Path, data_root: Path, cache: Path | None) -> Dataset:
        notes = []
        if self.split and (folder / self.split).exists():
            train, test = read_split(folder / self.split, self.images)
        else:
            train, test = self._build(name, folder)
            if self.split:
                notes.append(f"no {self.split}: train and test were built by its rule and are not the published ones")
        where = str(folder / self.split) if self.split and not notes else f"{name} ({folder})"
        within = (data_root, folder / self.images)
        measured = [measure(entries, folder, within=within, where=where) for entries in (train, test)]
        classes = class_names(train + test, where=where)
        return assemble(name, classes, folder, *measured, template=self.template, notes=notes, cache=cache)

    def _build(self, name: str, folder: Path) -> Lists:
        try:
            return self.build(folder)
        except (LookupError, TypeError, ValueError) as failure:  # a short line, a word for a number, an unknown name
            raise UserError(f"{name} ({folder}): its list files do not fit together: {failure!r}") from failure


@dataclass(frozen=True)
class Foldered:
    """ImageNet and its kin: class folders, named in classnames.txt ("n01440764 tench" a line), in sorted order.

    Where the folders are `numbered`, the number is the class id, and counts the lines of classnames.txt from 0.
    """

    test: str
    train: str | None = None
    numbered: bool = False

    def load(self, name: str, folder: Path, data_root: Path, cache: Path | None) -> Dataset:
        names = classnames(folder, data_root)
        if self.numbered:
            names = {str(line): text for line, text in enumerate(names.values())}
        test = class_folders(folder / self.test, cache)
        if unknown := [key for key in test.images if key not in names]:
            raise UserError(f"{test.folder}: classnames.txt has no line for {listed(unknown)}")
        keys = [key for key in names if key in test.images] if self.numbered else list(test.images)
        if self.numbered and keys != list(names)[: len(keys)]:
            raise UserError(
                f"{test.folder}: folders 0, 1, 2, ... are expected; there are {len(keys)}, up to {keys[-1]}"
            )
        none = ClassFolders(folder, dict.fromkeys(keys, []), 0)
        train = class_folders(folder / self.train, cache) if self.train else none
        if unlike := sorted(set(train.images) ^ set(keys)):
            raise UserError(f"{folder}: {listed(unlike)} are not in both {self.train}/ and {self.test}/")
        images = [
            [
                ImageFile(f"{part}/{key}/{file}", label, size)
                for label, key in enumerate(keys)
                for file, size in found.images[key]
            ]
            for part, found in ((self.train, train), (self.test, test))
        ]
        classes = [names[key] for key in keys]
        return assemble(name, classes, folder, *images, notes=train.notes + test.notes, twice=TWICE, cache=cache)


def classnames(folder: Path, data_root: Path) -> dict[str, str]:
    """{class folder: name}; ImageNet's own file serves where CoOp wants a copy of it."""
    own = folder / "classnames.txt"
    return read_names(own if own.exists() else data_root / "imagenet" / "classnames.txt")


def split_classes(entries: list[Entry]) -> Lists:
    """Of each class, shuffled, 50% for training and the last 30% for testing (the rest validates); each gets some."""
    shuffle = random.Random(1)
    train, test = [], []
    for group in by_label(entries).values():
        shuffle.shuffle(group)
        first = round(0.5 * len(group))
        train += group[:first]
        test += group[-max(1, len(group) - first - round(0.2 * len(group))) :] if len(group) > 1 else []
    return train, test


def without_validation(entries: list[Entry]) -> list[Entry]:
    """The training part of a published train+validation list: of each class, shuffled, all but the first 20%."""
    shuffle = random.Random(1)
    train = []
    for group in by_label(entries).values():
        shuffle.shuffle(group)
        train += group[round(0.2 * len(group)) :]
    return train


def class_folder_lists(images: str, left_out: Collection[str] = (), **renamed: str) -> Callable[[Path], Lists]:
    def build(folder: Path) -> Lists:
        found = class_folders(folder / images, None).images
        kept = {name: files for name, files in found.items() if name not in left_out}
        return split_classes(
            [
                Entry(f"{images}/{name}/{file}", label, renamed.get(name, name))
                for label, (name, files) in enumerate(kept.items())
                for file, _ in files
            ]
        )

    return build


def oxford_pets(folder: Path) -> Lists:
    def read(file: str) -> list[Entry]:
        return [
            Entry(f"images/{image}.jpg", int(label) - 1, image.rpartition("_")[0].lower())
            for image, label, *_ in read_rows(folder / "annotations" / file)  # Abyssinian_100 1 1 1
        ]

    return without_validation(read("trainval.txt")), read("test.txt")


def stanford_cars(folder: Path) -> Lists:
    names = [str(name[0]) for name in read_mat(folder / "devkit" / "cars_meta.mat", "class_names")]

    def read(images: str, file: Path) -> list[Entry]:
        entries = []
        for row in read_mat(file, "annotations"):
            label = int(row["class"][0, 0]) - 1
            model, _, year = names[label].rpartition(" ")
            entries.append(Entry(f"{images}/{row['fname'][0]}", label, f"{year} {model}"))
        return entries

    train = read("cars_train", folder / "devkit" / "cars_train_annos.mat")
    return without_validation(train), read("cars_test", folder / "cars_test_annos_withlabels.mat")


def flowers102(folder: Path) -> Lists:
    names = read_json(folder / "cat_to_name.json")
    labels = read_mat(folder / "imagelabels.mat", "labels").tolist()
    return split_classes(
        [Entry(f"jpg/image_{i:05d}.jpg", label - 1, names[str(label)]) for i, label in enumerate(labels, start=1)]
    )


def fgvc_aircraft(folder: Path) -> Lists:
    label = {name: i for i, name in enumerate(read_lines(folder / "variants.txt"))}
    train, test = (read_names(folder / f"images_variant_{part}.txt") for part in ("train", "test"))
    return tuple(
        [Entry(f"images/{image}.jpg", label[name], name) for image, name in part.items()] for part in (train, test)
    )


def sun397(folder: Path) -> Lists:
    label = {name: i for i, (name,) in enumerate(read_rows(folder / "ClassName.txt"))}

    def read(file: str) -> list[Entry]:
        entries = []
        for (image,) in read_rows(folder / file):  # /a/apartment_building/outdoor/sun_x.jpg
            name = image.rpartition("/")[0]
            entries.append(Entry(f"SUN397{image}", label[name], " ".join(reversed(name.split("/")[2:]))))
        return entries

    return without_validation(read("Training_01.txt")), read("Testing_01.txt")


def ucf101(folder: Path) -> Lists:
    label = {name: int(number) - 1 for number, name in read_rows(folder / "ucfTrainTestlist" / "classInd.txt")}

    def read(file: str) -> list[Entry]:
        entries = []
        for video, *_ in read_rows(folder / "ucfTrainTestlist" / file):  # ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1
            action, _, clip = video.partition("/")
            name = "_".join(re.findall("[A-Z][^A-Z]*", action))
            entries.append(Entry(f"UCF-101-midframes/{name}/{clip.removesuffix('.avi')}.jpg", label[action], name))
        return entries

    return without_validation(read("trainlist01.txt")), read("testlist01.txt")


def imagenet_r_fifths(folder: Path) -> Lists:
    """ImageNet-R for class-incremental learning: of each class, in sorted order, every fifth image is for testing."""
    names, found = classnames(folder, folder.parent), class_folders(folder / "imagenet-r", None).images
    entries = [
        [Entry(f"imagenet-r/{key}/{file}", label, names[key]) for file, _ in found[key]]
        for label, key in enumerate(found)
    ]
    return [e for c in entries for i, e in enumerate(c) if i % 5 != 4], [e for c in entries for e in c[4::5]]


def cub200(folder: Path) -> Lists:
    names = {number: name.partition(".")[2] for number, name in read_rows(folder / "classes.txt")}
    label, trained = (dict(read_rows(folder / file)) for file in ("image_class_labels.txt", "train_test_split.txt"))
    train, test = [], []
    for number, image in read_rows(folder / "images.txt"):
        entry = Entry(f"images/{image}", int(label[number]) - 1, names[label[number]])
        (train if trained[number] == "1" else test).append(entry)
    return train, test


def tiny_imagenet(folder: Path) -> Lists:
    """Its validation images, which alone have labels, are for testing; labels as wnids.txt counts them."""
    names = {key: text.partition(",")[0] for key, _, text in (line.partition("\t") for line in read_lines(folder / "words.txt"))}
    label = {key: i for i, key in enumerate(read_lines(folder / "wnids.txt"))}
    train = [
        Entry(f"train/{key}/images/{file}", i, names[key])
        for key, i in label.items()
        for file, _ in class_folders(folder / "train" / key, None).images["images"]
    ]
    rows = (row[:2] for row in read_rows(folder / "val" / "val_annotations.txt"))
    return train, [Entry(f"val/images/{file}", label[key], names[key]) for file, key in rows]


class OwnFolders(NamedTuple):
    """Class folders as they are: below train/ and test/ (as LAMDA-CL's downloads have them), else below `images`."""

    images: str

    def load(self, name: str, folder: Path, data_root: Path, cache: Path | None) -> Dataset:
        parted = (folder / "train").is_dir() and (folder / "test").is_dir()
        return load_own(name, folder if parted else folder / self.images, cache)


_CALTECH = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}
_EUROSAT = {
    "AnnualCrop": "Annual Crop Land",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "SeaLake": "Sea or Lake",
}
_FOLDERS_101 = class_folder_lists("101_ObjectCategories", left_out=("BACKGROUND_Google", "Faces_easy"), **_CALTECH)

LAYOUTS = {
    "ImageNet": Foldered("images/val", train="images/train"),
    "Caltech101": Listed(_FOLDERS_101, "101_ObjectCategories/", "split_zhou_Caltech101.json"),
    "OxfordPets": Listed(oxford_pets, "images/", "split_zhou_OxfordPets.json", "a photo of a {}, a type of pet."),
    "StanfordCars": Listed(stanford_cars, "", "split_zhou_StanfordCars.json"),
    "Flowers102": Listed(flowers102, "jpg/", "split_zhou_OxfordFlowers.json", "a photo of a {}, a type of flower."),
    "Food101": Listed(
        class_folder_lists("images"), "images/", "split_zhou_Food101.json", "a photo of {}, a type of food."
    ),
    "FGVCAircraft": Listed(fgvc_aircraft, template="a photo of a {}, a type of aircraft."),
    "SUN397": Listed(sun397, "SUN397/", "split_zhou_SUN397.json"),
    "DTD": Listed(class_folder_lists("images"), "images/", "split_zhou_DescribableTextures.json", "{} texture."),
    "EuroSAT": Listed(
        class_folder_lists("2750", **_EUROSAT), "2750/", "split_zhou_EuroSAT.json", "a centered satellite photo of {}."
    ),
    "UCF101": Listed(ucf101, "UCF-101-midframes/", "split_zhou_UCF101.json", "a photo of a person doing {}."),
    "ImageNetV2": Foldered("imagenetv2-matched-frequency-format-val", numbered=True),
    "ImageNet-Sketch": Foldered("images"),
    "ImageNet-A": Foldered("imagenet-a"),
    "ImageNet-R": Foldered("imagenet-r"),
    "ImageNet-R-CIL": Listed(imagenet_r_fifths, "imagenet-r/", "split_imagenet-r-cil.json"),
    "CUB-200": Listed(cub200),
    "ObjectNet": OwnFolders("images"),
    "Tiny-ImageNet": Listed(tiny_imagenet),
}
