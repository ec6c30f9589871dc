"""Datasets: names, splits and the few-shot choice, as lists of images with class ids; nothing about training.

`load` finds a dataset in one of three places: the embedded worlds (`lamm_cl.mini`), the layouts of the catalogue below
a data root, and folders or lists of one's own. Importing this needs neither torch nor Pillow.
"""

from lamm_cl.data.catalogue import DatasetInfo, canonical, load, names
from lamm_cl.data.check import Finding, check
from lamm_cl.data.dataset import Dataset, Files, Split, learned_from
from lamm_cl.data.fetch import fetch
from lamm_cl.data.fewshot import few_shot, few_shot_pair, too_few
from lamm_cl.data.images import open_image

__all__ = [
    "Dataset",
    "DatasetInfo",
    "Files",
    "Finding",
    "Split",
    "canonical",
    "check",
    "fetch",
    "few_shot",
    "few_shot_pair",
    "learned_from",
    "load",
    "names",
    "open_image",
    "too_few",
]
