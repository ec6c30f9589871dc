"""Every dataset that has a name: what it is, and how to find and load it."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from lamm_cl.config.schema import CHAIN
from lamm_cl.data import cifar, mnist, published
from lamm_cl.data.chains import chained
from lamm_cl.data.dataset import TEMPLATE, Dataset, Split, clean, fingerprint_of
from lamm_cl.data.features import load_features, parts_of
from lamm_cl.data.fetch import ARCHIVES
from lamm_cl.data.own import load_own
from lamm_cl.errors import UserError, did_you_mean


@dataclass(frozen=True)
class DatasetInfo:
    """A line of `data list`. Counts are the published ones; `gigabytes` is what the images take on disk, roughly.

    `folder` is where it is expected below the data root ("" for the embedded worlds, which need none);
    `split` is the page of the published split file, where there is one.
    """

    name: str
    classes: int
    train: int
    test: int
    gigabytes: float
    licence: str
    source: str
    folder: str
    split: str | None = None
    embedded: bool = False

    @property
    def where(self) -> str:
        """For people: which folder it is expected in."""
        return "embedded" if self.embedded else f"DATA_ROOT/{self.folder}"

    @property
    def counts(self) -> list[str]:
        """For people: classes, training and test images."""
        return [f"{number:,}" for number in (self.classes, self.train, self.test)]


LAYOUTS = published.LAYOUTS | cifar.LAYOUTS | mnist.LAYOUTS


# fmt: off
_RESEARCH = "non-commercial research"
_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
_MINI = {"licence": "as lamm-cl", "source": "lamm_cl.mini", "folder": "", "embedded": True}
_CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html"
_DRIVE = "https://drive.google.com/file/d/"
_HENDRYCKS = "https://github.com/hendrycks"

INFOS = (
    DatasetInfo("species", 20, 960, 1000, 0, **_MINI),
    DatasetInfo("rare", 20, 960, 1000, 0, **_MINI),
    DatasetInfo("compo", 20, 960, 1000, 0, **_MINI),
    DatasetInfo("digits", 10, 480, 500, 0, **_MINI | {"licence": "CC BY 4.0", "source": "scikit-learn's load_digits"}),
    DatasetInfo("ImageNet", 1000, 1281167, 50000, 145, _RESEARCH, "https://image-net.org", "imagenet"),
    DatasetInfo("Caltech101", 100, 4128, 2465, 0.15, "CC BY 4.0", "https://data.caltech.edu/records/mzrjq-6wc02",
                "caltech-101", _DRIVE + "1hyarUivQE36mY6jSomru6Fjd-JzwcCzN"),
    DatasetInfo("OxfordPets", 37, 2944, 3669, 0.8, "CC BY-SA 4.0", f"{_VGG}/pets/",
                "oxford_pets", _DRIVE + "1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs"),
    DatasetInfo("StanfordCars", 196, 6509, 8041, 1.9, _RESEARCH, "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
                "stanford_cars", _DRIVE + "1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT"),
    DatasetInfo("Flowers102", 102, 4093, 2463, 0.35, "not stated", f"{_VGG}/flowers/102/",
                "oxford_flowers", _DRIVE + "1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT"),
    DatasetInfo("Food101", 101, 50500, 30300, 5, "Foodspotting's terms",
                "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
                "food-101", _DRIVE + "1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl"),
    DatasetInfo("FGVCAircraft", 100, 3334, 3333, 2.7, _RESEARCH, f"{_VGG}/fgvc-aircraft/", "fgvc_aircraft"),
    DatasetInfo("SUN397", 397, 15880, 19850, 37, "not stated", "https://vision.princeton.edu/projects/2010/SUN/",
                "sun397", _DRIVE + "1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq"),
    DatasetInfo("DTD", 47, 2820, 1692, 0.6, "research", f"{_VGG}/dtd/",
                "dtd", _DRIVE + "1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x"),
    DatasetInfo("EuroSAT", 10, 13500, 8100, 0.1, "MIT", "https://github.com/phelber/EuroSAT",
                "eurosat", _DRIVE + "1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o"),
    DatasetInfo("UCF101", 101, 7639, 3783, 0.5, "not stated", "https://www.crcv.ucf.edu/data/UCF101.php",
                "ucf101", _DRIVE + "1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y"),
    DatasetInfo("ImageNetV2", 1000, 0, 10000, 1.3, "MIT", "https://github.com/modestyachts/ImageNetV2", "imagenetv2"),
    DatasetInfo("ImageNet-Sketch", 1000, 0, 50889, 7, "MIT", "https://github.com/HaohanWang/ImageNet-Sketch",
                "imagenet-sketch"),
    DatasetInfo("ImageNet-A", 200, 0, 7500, 0.7, "MIT", f"{_HENDRYCKS}/natural-adv-examples", "imagenet-adversarial"),
    DatasetInfo("ImageNet-R", 200, 0, 30000, 2.2, "MIT", f"{_HENDRYCKS}/imagenet-r", "imagenet-rendition"),
    DatasetInfo("ImageNet-R-CIL", 200, 24000, 6000, 2.2, "MIT", f"{_HENDRYCKS}/imagenet-r", "imagenet-rendition"),
    DatasetInfo("CIFAR-10", 10, 50000, 10000, 0.2, "not stated", _CIFAR, "cifar-10-batches-bin"),
    DatasetInfo("CIFAR-100", 100, 50000, 10000, 0.2, "not stated", _CIFAR, "cifar-100-binary"),
    DatasetInfo("MNIST", 10, 60000, 10000, 0.05, "not stated", "http://yann.lecun.com/exdb/mnist/", "MNIST/raw"),
    DatasetInfo("CUB-200", 200, 5994, 5794, 1.2, _RESEARCH, "https://www.vision.caltech.edu/datasets/cub_200_2011/",
                "CUB_200_2011"),
    DatasetInfo("ObjectNet", 313, 0, 50000, 190, "CC BY 4.0, for testing only", "https://objectnet.dev", "objectnet"),
    DatasetInfo("Tiny-ImageNet", 200, 100000, 10000, 0.5, _RESEARCH, "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                "tiny-imagenet-200"),
)
# fmt: on

# CoOp's own name, where it is neither the paper's nor the folder's.
ALIASES = {"describabletextures": "dtd"}


def names() -> list[DatasetInfo]:
    return list(INFOS)


def info(name: str) -> DatasetInfo | None:
    """The catalogue's line for a name, or a folder's name; case and hyphens do not count. None for one's own data."""
    plain = _plain(name)
    plain = ALIASES.get(plain, plain)
    return next((info for info in INFOS if plain and plain in (_plain(info.name), _plain(info.folder))), None)


def members(name: str) -> list[str]:
    """The datasets of a chain, "species + ./my-data", or in the spelling of records "species+digits"; [] for a single one."""
    if CHAIN in name:
        return name.split(CHAIN)
    parts = name.split("+")
    return parts if len(parts) > 1 and all(map(info, parts)) else []


def template_of(name: str) -> str:
    """The template of a dataset by its name in records."""
    return getattr(LAYOUTS.get(name), "template", TEMPLATE)


def is_embedded(name: str) -> bool:
    if chain := members(name):
        return all(map(is_embedded, chain))
    known = info(name)
    return known is not None and known.embedded


def _plain(name: str) -> str:
    return re.sub("[-_ ]", "", name.casefold())


def canonical(name: str) -> str:
    """The spelling that records and result folders keep: the catalogue's, or the last part of a path of one's own; of a chain
    all of them."""
    if chain := members(name):
        return "+".join(map(canonical, chain))
    known = info(name)
    if known:
        return known.name
    if not is_path(name):
        return name
    if file := parts_of(name):
        return "-".join(filter(None, [Path(file[0]).stem, file[1]]))
    path = Path(os.path.realpath(Path(name).expanduser()))  # which a link to itself does not stop
    return path.stem if path.suffix in (".json", ".csv") else path.name


def is_path(name: str) -> bool:
    """Whether a scenario names data of one's own by a path, as in "./my-data", "lists/mine.csv" or "features.npz"."""
    return "/" in name or name.startswith((".", "~")) or name.endswith((".json", ".csv")) or parts_of(name) is not None


def load(name: str, data_root: Path | None, cache: Path, split: str | None = None) -> Dataset:
    """A dataset of the catalogue, or one's own: a path, relative to the current folder, or a folder in the data root; a file of
    features may lie in either.

    split: the name of a list of train and test images, split_NAME.json in the dataset's folder. Where it does not lie there, the
    dataset's own split is taken and a note says so.
    UserError for a name that is neither, for missing files, and for whatever else keeps it from being a dataset.
    `cache` keeps the embedded worlds and the listings of very large folders.
    """
    if chain := members(name):
        return chained(canonical(name), [load(each, data_root, cache, split) for each in chain])
    if split is None:
        return _load(name, data_root, cache)
    folder = folder_of(name, data_root)
    if folder is None or not (path := folder / f"split_{split}.json").exists():
        own = _load(name, data_root, cache)
        where = f" in {folder}" if folder else ""
        absent = f"no split_{split}.json{where}: train and test are the data set's own, not those of {split!r}"
        return replace(own, notes=(*own.notes, absent))
    found = load_own(canonical(name), path, cache)
    known = info(name)
    layout = LAYOUTS.get(known.name) if known else None
    return replace(found, split=split, template=getattr(layout, "template", TEMPLATE))


def folder_of(name: str, data_root: Path | None) -> Path | None:
    """Where a dataset's images lie; None for what has no folder: the embedded worlds, features, what is not here."""
    known = info(name)
    if known is None:
        places = [Path(name).expanduser(), *([data_root / name] if data_root else [])]
    else:
        places = [data_root / known.folder, *_alternatives(known, data_root)] if data_root and not known.embedded else []
    return next((place for place in places if place.is_dir()), None)


def _load(name: str, data_root: Path | None, cache: Path) -> Dataset:
    known = info(name)
    if known is None and (file := parts_of(name)):
        return load_features(canonical(name), feature_file(file[0], data_root), file[1])
    if known is None:
        return load_own(canonical(name), _own_path(name, data_root), cache)
    if known.embedded:
        return _world(known.name, cache)
    if data_root is None:
        raise UserError(f"{known.name} needs --data-root, a folder with {known.folder}/ in it; see {known.source}")
    folder = data_root / known.folder
    if not folder.is_dir():
        folder = next((path for path in _alternatives(known, data_root) if path.is_dir()), folder)
        if folder.is_dir():
            return load_own(known.name, folder, cache)
        raise UserError(f"{known.name}: no folder {folder}; {how_to_get(known)}")
    return LAYOUTS[known.name].load(known.name, folder, data_root, cache)


def how_to_get(known: DatasetInfo) -> str:
    if known.name.startswith("CIFAR"):
        return f"`lamm-cl data fetch {known.name}` downloads the binary version (python pickles are not read)"
    if known.name in ARCHIVES:
        return f"`lamm-cl data fetch {known.name}` downloads it"
    return f"get the images from {known.source} and lay them out as in CoOp's DATASETS.md"


def _alternatives(known: DatasetInfo, data_root: Path) -> list[Path]:
    """CIFAR as folders of image files, train/ and test/, is common, and has the published split and order."""
    if not known.name.startswith("CIFAR"):
        return []
    return [data_root / name for name in (known.name, known.name.lower(), known.name.lower().replace("-", ""))]


def is_there(path: str, data_root: Path | None) -> bool:
    """Whether one's own data lies at a path; a file of features may also lie in the data root."""
    if chain := members(path):
        return all(is_there(each, data_root) for each in chain if is_path(each))
    file = parts_of(path)
    return any(place.is_file() for place in _places(file[0], data_root)) if file else Path(path).expanduser().exists()


def _places(file: str, data_root: Path | None) -> list[Path]:
    return [Path(file).expanduser(), *([data_root / file] if data_root else [])]


def feature_file(name: str, data_root: Path | None) -> Path:
    """Where an .npz lies: relative to the current folder, or to the data root."""
    places = _places(name, data_root)
    for path in places:
        if path.is_file():
            return path
    others = [path.name for place in places if place.parent.is_dir() for path in place.parent.glob("*.npz")]
    root = f"in the data root {data_root}" if data_root else "--data-root names another"
    raise UserError(f"{name}: no such file (looked for in {Path.cwd()}; {root}){did_you_mean(Path(name).name, others)}")


def _own_path(name: str, data_root: Path | None) -> Path:
    if is_path(name):
        path = Path(name).expanduser()
        if not path.exists():
            raise UserError(f"{path}: no such file or folder (looked for in {Path.cwd()})")
        return path
    if data_root is not None and (data_root / name).is_dir():
        return data_root / name
    raise UserError(
        f"no dataset '{name}', nor such a folder in the data root{did_you_mean(name, [i.name for i in INFOS])}; "
        "one's own data is named by a path, ./my-data"
    )


def _world(name: str, cache: Path) -> Dataset:
    from lamm_cl.mini.worlds import world  # draws its images with Pillow, and digits needs scikit-learn

    names, *arrays = world(name, cache)
    classes = clean(names, where=name)
    train, test = Split(arrays[0], arrays[1].astype("int64")), Split(arrays[2], arrays[3].astype("int64"))
    fingerprint = fingerprint_of(classes, (train, test), (train.images.tobytes(), test.images.tobytes()))
    return Dataset(name, classes, train, test, TEMPLATE, fingerprint)
