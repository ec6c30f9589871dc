"""What a record says of the backbone, the data set and the machine."""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import os
import platform
import resource
import subprocess
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version

import torch

from lamm_cl.config.schema import Backbone
from lamm_cl.data.dataset import Dataset
from lamm_cl.files import PACKAGE
from lamm_cl.results.record import BackboneFacts, ChainFacts, DatasetFacts, FeatureFacts, Measured
from lamm_cl.sweeping.same import weights_hash
from lamm_cl.towers.clip import FrozenCLIP
from lamm_cl.training import stream


@dataclass
class Stopwatch:
    """Wall seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    loads: list[float] = field(default_factory=list)  # running processes a core, whenever a lap ended

    def lap(self, stage: str, start: float) -> None:
        self.loads.append(os.getloadavg()[0] / (os.cpu_count() or 1))
        self.seconds[stage] = round(self.seconds.get(stage, 0) + time.perf_counter() - start, 3)


def facts_of_backbone(backbone: Backbone, frozen: FrozenCLIP) -> BackboneFacts:
    return BackboneFacts(
        *(backbone.architecture, backbone.weights, frozen.weights_hash, frozen.precision, frozen.activation),
        file=weights_hash(backbone, None),
        linears=frozen.linears,
    )


def facts_of(dataset: Dataset, parts: stream.Stream, named: str) -> DatasetFacts:
    C = len(parts.names)
    return DatasetFacts(
        fingerprint=dataset.fingerprint,
        classes=tuple(parts.names),
        order=tuple(parts.order),
        experiences=tuple(map(len, parts.experiences)),
        train_images=tuple(map(len, parts.train)),
        test_images=tuple(map(len, parts.test)),
        test_per_class=tuple(torch.bincount(parts.test_targets, minlength=C).tolist()),
        chosen=tuple(tuple(ids.tolist()) for ids in parts.train),
        notes=dataset.notes + parts.notes,
        features=dataset.features and FeatureFacts(**asdict(dataset.features)),
        named=named,
        images=(len(dataset.train), len(dataset.test)),
        names_and_sizes=dataset.names_and_sizes,
        chain=ChainFacts(*map(tuple, zip(*parts.chain)), parts.same) if parts.chain else None,
        split=dataset.split,
    )


def deciders() -> dict[str, str]:
    """What beside data and weights decides the bits of a feature: who decodes and resizes, and what this processor can do."""
    packages = {name: version(name) for name in ("pillow", "torchvision", "open_clip_torch")}
    return packages | {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}


def host() -> str:
    """The kind of machine, without what names this one: records are sent around."""
    return f"{platform.system()}-{platform.machine()}-with-{''.join(platform.libc_ver()) or 'another libc'}"


def measured(watch: Stopwatch, device: torch.device, images: int, work: dict[str, int] | None) -> Measured:
    packages = ("lamm-cl", "torch", "torchvision", "open_clip_torch", "avalanche-lib", "numpy")
    cuda = device.type == "cuda"
    return Measured(
        seconds=watch.seconds,
        images_per_second=round(images / max(watch.seconds.get("train", 0) + watch.seconds.get("test", 0), 1e-3), 1),
        peak_memory_bytes=torch.cuda.max_memory_allocated(device)
        if cuda
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        device=torch.cuda.get_device_name(device) if cuda else f"cpu, {torch.get_num_threads()} thread(s)",
        host=host(),
        versions={"python": platform.python_version(), **{name: version(name) for name in packages}},
        commit=commit(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        work=work,
        load=round(sum(watch.loads) / len(watch.loads), 2) if watch.loads else None,
    )


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The commit of a source checkout, with "+changes" if files differ from it; None for an installed package."""
    git = ["git", "-C", str(PACKAGE)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if changed.strip() else "")
