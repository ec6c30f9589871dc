"""Miniatures of the published dataset folders: two to five classes, a few tiny images, files named as the originals.

`write(name, root)` writes one below `root`; EXPECTED says what must be read from it.
"""

import gzip
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.io import savemat

SPLIT = {"train": 6, "val": 2, "test": 3}  # images per class where a list decides
PER_CLASS = sum(SPLIT.values())


class Expected(NamedTuple):
    classes: tuple[str, ...]
    train: int  # images per class
    test: int
    template: str = "a photo of a {}."


IMAGENET = {"n01440764": "tench", "n01443537": "goldfish", "n01484850": "great white shark", "n02123045": "tabby cat"}
EUROSAT = ["AnnualCrop", "Forest", "HerbaceousVegetation", "SeaLake"]

EXPECTED = {
    "ImageNet": Expected(tuple(IMAGENET.values()), 6, 3),
    "Caltech101": Expected(("face", "leopard", "accordion", "airplane", "car side"), 6, 3),
    "OxfordPets": Expected(("abyssinian", "american bulldog", "basset hound"), 6, 3, "a photo of a {}, a type of pet."),
    "StanfordCars": Expected(("2000 AM General Hummer SUV", "2012 Acura RL Sedan", "2012 Ram C/V Cargo Van"), 6, 3),
    "Flowers102": Expected(
        ("pink primrose", "canterbury bells", "colt's foot"), 6, 3, "a photo of a {}, a type of flower."
    ),
    "Food101": Expected(("apple pie", "baby back ribs", "baklava"), 6, 3, "a photo of {}, a type of food."),
    "FGVCAircraft": Expected(
        ("707-320", "727-200", "DHC-8-100", "Spitfire"), 6, 3, "a photo of a {}, a type of aircraft."
    ),
    "SUN397": Expected(("abbey", "airplane cabin", "outdoor apartment building"), 6, 3),
    "DTD": Expected(("banded", "blotchy", "braided"), 6, 3, "{} texture."),
    "EuroSAT": Expected(
        ("Annual Crop Land", "Forest", "Herbaceous Vegetation Land", "Sea or Lake"),
        6,
        3,
        "a centered satellite photo of {}.",
    ),
    "UCF101": Expected(("Apply Eye Makeup", "Biking", "Yo Yo"), 6, 3, "a photo of a person doing {}."),
    "ImageNetV2": Expected(tuple(IMAGENET.values()), 0, 3),
    "ImageNet-Sketch": Expected(tuple(IMAGENET.values()), 0, 3),
    "ImageNet-A": Expected(("tench", "great white shark"), 0, 3),
    "ImageNet-R": Expected(("goldfish", "tabby cat"), 0, 3),
    "CUB-200": Expected(("Black footed Albatross", "Laysan Albatross"), 6, 3),
    "MNIST": Expected(tuple("0123456789"), 2, 1, 'a photo of the number: "{}".'),
    "CIFAR-10": Expected(("airplane", "automobile", "bird"), 10, 2),
    "CIFAR-100": Expected(("apple", "aquarium fish", "baby"), 2, 2),
}
SPLIT_FILES = {
    "Caltech101": "caltech-101/split_zhou_Caltech101.json",
    "OxfordPets": "oxford_pets/split_zhou_OxfordPets.json",
    "StanfordCars": "stanford_cars/split_zhou_StanfordCars.json",
    "Flowers102": "oxford_flowers/split_zhou_OxfordFlowers.json",
    "Food101": "food-101/split_zhou_Food101.json",
    "SUN397": "sun397/split_zhou_SUN397.json",
    "DTD": "dtd/split_zhou_DescribableTextures.json",
    "EuroSAT": "eurosat/split_zhou_EuroSAT.json",
    "UCF101": "ucf101/split_zhou_UCF101.json",
}
ORIGINALS = [name for name in EXPECTED if not name.startswith(("CIFAR", "CUB", "MNIST"))]  # the fifteen


def write(name: str, root: Path, *, split: bool = True) -> Path:
    """The miniature of `name`, with its split file where it has one unless `split` is false; returns its folder."""
    folder = WRITERS[name](root)
    if not split and name in SPLIT_FILES:
        (root / SPLIT_FILES[name]).unlink()
    return folder


def picture(path: Path, size: tuple[int, int] = (12, 10)) -> None:
    """A small image of one colour, which its path decides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, tuple(sum(path.name.encode()) * k % 256 for k in (1, 7, 31))).save(path)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def parts() -> list[str]:
    """The part of each image of a class, by position: "train" six times, "val" twice, "test" three times."""
    return [part for part, count in SPLIT.items() for _ in range(count)]


def split_file(path: Path, items: list[tuple[str, str, int, str]]) -> None:
    """A split_zhou file from (part, path, label, class name)."""
    split = {part: [[image, label, name] for p, image, label, name in items if p == part] for part in SPLIT}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(split), encoding="utf-8")


def class_folders(root: Path, images: str, folders: list[str], shown: list[str], split: str, numbered: str) -> Path:
    """Images in class folders, named by `numbered`, with the split file `split` beside."""
    home = root / Path(split).parent
    items = []
    for label, (folder, name) in enumerate(zip(folders, shown, strict=True)):
        for i, part in enumerate(parts(), start=1):
            image = f"{folder}/" + numbered.format(name=folder, i=i)
            picture(home / images / image)
            items.append((part, image, label, name))
    split_file(root / split, items)
    return home


def caltech101(root: Path) -> Path:
    folders = ["Faces", "Leopards", "accordion", "airplanes", "car_side"]
    shown = ["face", "leopard", "accordion", "airplane", "car_side"]
    home = class_folders(root, "101_ObjectCategories", folders, shown, SPLIT_FILES["Caltech101"], "image_{i:04d}.jpg")
    for left_out in ("BACKGROUND_Google", "Faces_easy"):
        picture(home / "101_ObjectCategories" / left_out / "image_0001.jpg")
    return home


def food101(root: Path) -> Path:
    folders = ["apple_pie", "baby_back_ribs", "baklava"]
    return class_folders(root, "images", folders, folders, SPLIT_FILES["Food101"], "100{i}.jpg")


def dtd(root: Path) -> Path:
    folders = ["banded", "blotchy", "braided"]
    home = class_folders(root, "images", folders, folders, SPLIT_FILES["DTD"], "{name}_{i:04d}.jpg")
    text(home / "images" / "banded" / ".directory", "hidden, as in the original archive")
    return home


def eurosat(root: Path) -> Path:
    return class_folders(
        root, "2750", EUROSAT, list(EXPECTED["EuroSAT"].classes), SPLIT_FILES["EuroSAT"], "{name}_{i}.jpg"
    )


def oxford_pets(root: Path) -> Path:
    home, items = root / "oxford_pets", []
    for label, breed in enumerate(["Abyssinian", "american_bulldog", "basset_hound"]):
        for i, part in enumerate(parts(), start=1):
            picture(home / "images" / f"{breed}_{i}.jpg")
            items.append((part, f"{breed}_{i}", label, breed.lower()))
    for file, wanted in (("trainval.txt", ("train", "val")), ("test.txt", ("test",))):
        text(
            home / "annotations" / file,
            *(f"{image} {label + 1} 1 1" for part, image, label, _ in items if part in wanted),
        )
    split_file(
        root / SPLIT_FILES["OxfordPets"], [(part, f"{image}.jpg", label, name) for part, image, label, name in items]
    )
    return home


def stanford_cars(root: Path) -> Path:
    home, items = root / "stanford_cars", []
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van 2012"]
    counts = {"train": 0, "test": 0}
    annotations = {"train": [], "test": []}
    for label, shown in enumerate(EXPECTED["StanfordCars"].classes):
        for part in parts():
            side = "test" if part == "test" else "train"
            counts[side] += 1
            file = f"{counts[side]:05d}.jpg"
            picture(home / f"cars_{side}" / file)
            items.append((part, f"cars_{side}/{file}", label, shown))
            annotations[side].append((1, 1, 9, 9, label + 1, file))
    fields = [(field, object) for field in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    (home / "devkit").mkdir()
    savemat(home / "devkit" / "cars_meta.mat", {"class_names": np.array(names, object).reshape(1, -1)})
    for file, side in (("devkit/cars_train_annos.mat", "train"), ("cars_test_annos_withlabels.mat", "test")):
        savemat(home / file, {"annotations": np.array(annotations[side], fields).reshape(1, -1)})
    split_file(root / SPLIT_FILES["StanfordCars"], items)
    return home


def flowers102(root: Path) -> Path:
    home, items, labels = root / "oxford_flowers", [], []
    names = list(EXPECTED["Flowers102"].classes)
    for part in parts():
        for label, name in enumerate(names):
            labels.append(label + 1)
            file = f"image_{len(labels):05d}.jpg"
            picture(home / "jpg" / file)
            items.append((part, file, label, name))
    savemat(home / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    text(home / "cat_to_name.json", json.dumps({str(i): name for i, name in enumerate(names, start=1)}))
    split_file(root / SPLIT_FILES["Flowers102"], items)
    return home


def fgvc_aircraft(root: Path) -> Path:
    home, names = root / "fgvc_aircraft", EXPECTED["FGVCAircraft"].classes
    lines = {part: [] for part in SPLIT}
    for label, name in enumerate(names):
        for i, part in enumerate(parts()):
            picture(home / "images" / f"{34309 + 100 * i + label:07d}.jpg")
            lines[part].append(f"{34309 + 100 * i + label:07d} {name}")
    text(home / "variants.txt", *names)
    for part, content in lines.items():
        text(home / f"images_variant_{part}.txt", *content)
    return home


def sun397(root: Path) -> Path:
    home, items = root / "sun397", []
    folders = ["a/abbey", "a/airplane_cabin", "a/apartment_building/outdoor"]
    for label, (folder, shown) in enumerate(zip(folders, EXPECTED["SUN397"].classes, strict=True)):
        for i, part in enumerate(parts()):
            picture(home / "SUN397" / folder / f"sun_a{label}{i}.jpg")
            items.append(
                (part, f"{folder}/sun_a{label}{i}.jpg", label, shown.replace(" ", "_") if label == 1 else shown)
            )
    text(home / "ClassName.txt", *(f"/{folder}" for folder in folders))
    text(home / "Training_01.txt", *(f"/{image}" for part, image, *_ in items if part != "test"))
    text(home / "Testing_01.txt", *(f"/{image}" for part, image, *_ in items if part == "test"))
    split_file(root / SPLIT_FILES["SUN397"], items)
    return home


def ucf101(root: Path) -> Path:
    home, items, videos = root / "ucf101", [], {"train": [], "test": []}
    actions = {"ApplyEyeMakeup": "Apply_Eye_Makeup", "Biking": "Biking", "YoYo": "Yo_Yo"}
    for label, (action, folder) in enumerate(actions.items()):
        for i, part in enumerate(parts(), start=1):
            clip = f"v_{action}_g{i:02d}_c01"
            picture(home / "UCF-101-midframes" / folder / f"{clip}.jpg")
            items.append((part, f"{folder}/{clip}.jpg", label, folder))
            videos["test" if part == "test" else "train"].append((f"{action}/{clip}.avi", label + 1))
    lists = home / "ucfTrainTestlist"
    text(lists / "classInd.txt", *(f"{i} {action}" for i, action in enumerate(actions, start=1)))
    text(lists / "trainlist01.txt", *(f"{video} {label}" for video, label in videos["train"]))
    text(lists / "testlist01.txt", *(video for video, _ in videos["test"]))
    split_file(root / SPLIT_FILES["UCF101"], items)
    return home


def imagenet(root: Path) -> Path:
    home = root / "imagenet"
    for key in IMAGENET:
        for i in range(SPLIT["train"]):
            picture(home / "images" / "train" / key / f"{key}_{i}.JPEG")
        for i in range(SPLIT["test"]):
            picture(home / "images" / "val" / key / f"ILSVRC2012_val_0000{i}{key[-3:]}.JPEG")
    return _with_classnames(home)


def imagenet_v2(root: Path) -> Path:
    home = root / "imagenetv2"
    for label in range(len(IMAGENET)):
        for i in range(3):
            picture(home / "imagenetv2-matched-frequency-format-val" / str(label) / f"{i}a{label}.jpeg")
    return _with_classnames(home)


def imagenet_sketch(root: Path) -> Path:
    home = root / "imagenet-sketch"
    for key in IMAGENET:
        for i in range(3):
            picture(home / "images" / key / f"sketch_{i}.JPEG")
    return _with_classnames(home)


def imagenet_a(root: Path) -> Path:
    home = root / "imagenet-adversarial"
    for key in ("n01440764", "n01484850"):
        for i in range(3):
            picture(home / "imagenet-a" / key / f"0.00{i}_{key}.jpg")
    text(home / "imagenet-a" / "README.txt", "This dataset contains natural adversarial examples.")
    return _with_classnames(home)


def imagenet_r(root: Path) -> Path:
    home = root / "imagenet-rendition"
    for key in ("n01443537", "n02123045"):
        for i in range(3):
            picture(home / "imagenet-r" / key / f"art_{i}.jpg")
    text(home / "imagenet-r" / "README.txt", "This dataset contains renditions.")
    return _with_classnames(home)


def _with_classnames(home: Path) -> Path:
    text(home / "classnames.txt", *(f"{key} {name}" for key, name in IMAGENET.items()))
    return home


def cub200(root: Path) -> Path:
    home = root / "CUB_200_2011"
    folders = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    images = []
    for label, folder in enumerate(folders, start=1):
        for i, part in enumerate(parts()):
            if part != "val":
                picture(home / "images" / folder / f"{folder[4:]}_00{i}.jpg")
                images.append((f"{folder}/{folder[4:]}_00{i}.jpg", label, int(part == "train")))
    text(home / "classes.txt", *(f"{i} {folder}" for i, folder in enumerate(folders, start=1)))
    for file, column in (("images.txt", 0), ("image_class_labels.txt", 1), ("train_test_split.txt", 2)):
        text(home / file, *(f"{i} {image[column]}" for i, image in enumerate(images, start=1)))
    return home


def cifar10(root: Path) -> Path:
    home = root / "cifar-10-batches-bin"
    text(home / "batches.meta.txt", *EXPECTED["CIFAR-10"].classes, "")
    for file in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        (home / file).write_bytes(b"".join(cifar_record(bytes([label])) for label in (0, 1, 2, 2, 1, 0)))
    return home


def cifar100(root: Path) -> Path:
    home = root / "cifar-100-binary"
    text(home / "fine_label_names.txt", "apple", "aquarium_fish", "baby")
    for file in ("train.bin", "test.bin"):
        (home / file).write_bytes(b"".join(cifar_record(bytes([9, label])) for label in (0, 1, 2, 2, 1, 0)))
    return home


def cifar_record(labels: bytes) -> bytes:
    """A red image whose first row is as green as its label, behind its label bytes."""
    green = bytes([labels[-1]] * 32).ljust(1024, b"\0")
    return labels + b"\xff" * 1024 + green + b"\0" * 1024


def mnist(root: Path) -> Path:
    """Images 3 high and 5 wide, as grey as 20 times their label; those to train from gzipped."""
    home = root / "MNIST" / "raw"
    home.mkdir(parents=True)
    for part, count, pack in (("train", 2, gzip.compress), ("t10k", 1, bytes)):
        labels = np.repeat(np.arange(10, dtype=np.uint8), count)[::-1]
        images = np.broadcast_to(20 * labels[:, None, None], (len(labels), 3, 5)).astype(np.uint8)
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
            (home / f"{name}{'.gz' if pack is gzip.compress else ''}").write_bytes(pack(content))
    return home


WRITERS = {
    "ImageNet": imagenet,
    "Caltech101": caltech101,
    "OxfordPets": oxford_pets,
    "StanfordCars": stanford_cars,
    "Flowers102": flowers102,
    "Food101": food101,
    "FGVCAircraft": fgvc_aircraft,
    "SUN397": sun397,
    "DTD": dtd,
    "EuroSAT": eurosat,
    "UCF101": ucf101,
    "ImageNetV2": imagenet_v2,
    "ImageNet-Sketch": imagenet_sketch,
    "ImageNet-A": imagenet_a,
    "ImageNet-R": imagenet_r,
    "CUB-200": cub200,
    "MNIST": mnist,
    "CIFAR-10": cifar10,
    "CIFAR-100": cifar100,
}
