"""Where torch computes."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from lamm_cl.errors import UserError


def device(wanted: str) -> str:
    """auto, cpu, cuda or cuda:N -> cpu, cuda or cuda:N.  Raises UserError for a CUDA device that is not here."""
    found = torch.cuda.is_available()
    kind, _, number = wanted.partition(":")
    if kind == "cuda" and not found:
        raise UserError(f"--device {wanted}: torch finds no CUDA device here; expected cpu or auto")
    if number and int(number) >= (here := torch.cuda.device_count()):
        raise UserError(f"--device {wanted}: there {'is' if here == 1 else 'are'} {here} here, cuda:0 to cuda:{here - 1}")
    return wanted if wanted != "auto" else "cuda" if found else "cpu"


def machine(device: str) -> list[str]:
    """What decides how fast it is: the GPU by its name, or the processor."""
    if device.startswith("cuda"):
        return [torch.cuda.get_device_name(device)]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        if named := [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]:
            return [named[0], str(len(named))]
    return [platform.processor() or platform.machine(), str(os.cpu_count())]


def free_memory(where: torch.device) -> float:
    """Bytes that can be had there; of a processor, inf where the system does not tell."""
    if where.type == "cuda":
        reserved = torch.cuda.memory_reserved(where) - torch.cuda.memory_allocated(where)
        return torch.cuda.mem_get_info(where)[0] + reserved
    found = float("inf")
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = 1024 * float(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))
    with suppress(OSError, ValueError):  # a container's limit; "max": none
        limit, used = (float(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        found = min(found, limit - used)
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: sums, and so results, do not depend on the machine's cores or on the number of jobs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
