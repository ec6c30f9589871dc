"""Miniatures of the field's datasets in the layouts that they come in, with every class: each image a picture of one pixel."""

import json
import os
from pathlib import Path

from layouts import text
from PIL import Image

from lamm_cl.data.measured import LISTS

TRAIN, TEST = 2, 1  # images of a class
MERGED = {"balcony": ("interior", "exterior"), "bow window": ("indoor", "outdoor")}  # in SUN397 two classes each


def names(name: str) -> list[str]:
    return json.loads((LISTS / f"{name}.json").read_text())["names"]


class Pictures:
    """One file under many names."""

    def __init__(self, root: Path):
        self.root, self.one = root, root / "one.png"
        root.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (1, 1)).save(self.one)

    def put(self, place: str) -> str:
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(self.one, path)
        return place


def listed(root: Path, home: str, classes: list[str], split: str, folder: str = "") -> None:
    """Class folders and a list of them, split_NAME.json, as CoOp's are."""
    pictures, parts = Pictures(root / home), {"train": [], "val": [], "test": []}
    for label, shown in enumerate(classes):
        for i in range(TRAIN + TEST):
            place = f"{label:03d}/{i}.png"
            pictures.put(folder + place)
            parts["train" if i < TRAIN else "test"].append([place, label, shown])
    (root / home / split).write_text(json.dumps(parts))


def cifar100(root: Path) -> None:
    text(root / "cifar-100-binary" / "fine_label_names.txt", *(f"kind_{i}" for i in range(100)))
    for file, n in (("train.bin", TRAIN), ("test.bin", TEST)):
        content = b"".join(bytes([0, label]) + bytes(3072) for label in range(100) for _ in range(n))
        (root / "cifar-100-binary" / file).write_bytes(content)


def imagenet_r(root: Path) -> None:
    pictures = Pictures(root / "imagenet-rendition")
    keys = [f"n{i:08d}" for i in range(200)]
    for key in keys:
        for i in range(5):  # every fifth is for testing
            pictures.put(f"imagenet-r/{key}/{i}.png")
    text(root / "imagenet-rendition" / "classnames.txt", *(f"{key} thing {i}" for i, key in enumerate(keys)))


def cub200(root: Path) -> None:
    pictures, rows = Pictures(root / "CUB_200_2011"), []
    folders = [f"{i:03d}.{name.replace(' ', '_')}" for i, name in enumerate(names("cub200"), start=1)]
    for label, folder in enumerate(folders, start=1):
        rows += [(pictures.put(f"images/{folder}/{i}.png")[7:], label, int(i < TRAIN)) for i in range(TRAIN + TEST)]
    home = root / "CUB_200_2011"
    text(home / "classes.txt", *(f"{i} {folder}" for i, folder in enumerate(folders, start=1)))
    for file, column in (("images.txt", 0), ("image_class_labels.txt", 1), ("train_test_split.txt", 2)):
        text(home / file, *(f"{i} {row[column]}" for i, row in enumerate(rows, start=1)))


def aircraft(root: Path) -> None:
    pictures, variants = Pictures(root / "fgvc_aircraft"), names("aircraft100")
    text(root / "fgvc_aircraft" / "variants.txt", *variants)
    for part, n in (("train", TRAIN), ("test", TEST)):
        lines = []
        for label, name in enumerate(variants):
            for i in range(n):
                key = f"{part}{label:03d}{i}"
                pictures.put(f"images/{key}.jpg")
                lines.append(f"{key} {name}")
        text(root / "fgvc_aircraft" / f"images_variant_{part}.txt", *lines)


def cars(root: Path) -> None:
    """CoOp's names begin with the year; the 96 that the field leaves out come last."""
    years = [f"{name.rpartition(' ')[2]} {name.rpartition(' ')[0]}" for name in names("cars100")]
    listed(root, "stanford_cars", [*years, *(f"2012 Later {i}" for i in range(96))], "split_zhou_StanfordCars.json")


def food(root: Path) -> None:
    shown = [name.replace(" ", "_") for name in names("food100")]
    listed(root, "food-101", [*shown, "waffles"], "split_zhou_Food101.json", "images/")


def ucf(root: Path) -> None:
    shown = [name.replace(" ", "_").replace("Hand_Stand_Pushups", "Handstand_Pushups") for name in names("ucf100")]
    listed(root, "ucf101", [*shown, "Yo_Yo"], "split_zhou_UCF101.json", "UCF-101-midframes/")


def sun(root: Path) -> None:
    kinds = MERGED | {"apartment building": ("outdoor",)}
    own = [f"{kind} {name}" for name in names("sun300") for kind in kinds.get(name, ("",))]
    later = [f"later {i}" for i in range(95)]
    listed(root, "sun397", [name.strip() for name in own] + later, "split_zhou_SUN397.json", "SUN397/")


def objectnet(root: Path) -> None:
    pictures = Pictures(root / "objectnet")
    for name in names("objectnet200"):
        for part, n in (("train", TRAIN), ("test", TEST)):
            for i in range(n):
                pictures.put(f"{part}/{name.replace(' ', '_')}/{i}.png")


def tiny_imagenet(root: Path) -> None:
    home = root / "tiny-imagenet-200"
    pictures, keys = Pictures(home), [f"n{7 * i % 200:08d}" for i in range(200)]
    text(home / "wnids.txt", *keys)
    text(home / "words.txt", *(f"{key}\tthing {i}, another word" for i, key in enumerate(keys)))
    for key in keys:
        for i in range(TRAIN):
            pictures.put(f"train/{key}/images/{key}_{i}.JPEG")
        pictures.put(f"val/images/val_{key}.JPEG")
    text(home / "val" / "val_annotations.txt", *(f"val_{key}.JPEG\t{key}\t0\t0\t1\t1" for key in keys))


WRITERS = {
    "CIFAR-100": cifar100, "ImageNet-R-CIL": imagenet_r, "CUB-200": cub200, "FGVCAircraft": aircraft, "StanfordCars": cars,
    "Food101": food, "UCF101": ucf, "ObjectNet": objectnet, "SUN397": sun, "Tiny-ImageNet": tiny_imagenet,
}  # fmt: skip


def write(root: Path) -> Path:
    for writer in WRITERS.values():
        writer(root)
    return root
