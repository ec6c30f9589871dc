"""What measures: seconds in turns, peak memory, processes of their own."""

import ctypes
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Measure:
    """value in `unit`; ratio: how many times faster (or what share), against `target`; None where nothing is promised."""

    name: str
    value: float
    unit: str
    ratio: float | None = None
    target: str | None = None
    met: bool | None = None
    note: str = ""
    group: str = ""  # of the bench's groups


def interleaved(functions: list[Callable[[], object]], repeats: int) -> list[float]:
    """Least seconds of each, measured in turns so that what else the machine does hits all alike."""
    best = [float("inf")] * len(functions)
    for _ in range(repeats):
        for i, function in enumerate(functions):
            best[i] = min(best[i], timed(function)[0])
    return best


def timed(function: Callable[[], T]) -> tuple[float, T]:
    """-> seconds, result."""
    start = time.perf_counter()
    result = function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def used(function: Callable[[], object], device: torch.device) -> float:
    """Seconds that this process has the processor, whatever else the machine does; on a GPU those of the clock."""
    if device.type != "cpu":
        return timed(function)[0]
    start = time.process_time()
    function()
    return time.process_time() - start


def at_least(name: str, value: float, unit: str, ratio: float, target: float, note: str = "") -> Measure:
    return Measure(name, value, unit, ratio, f">= {target:g}", ratio >= target, note)


def at_most(name: str, value: float, unit: str, ratio: float, target: float, note: str = "") -> Measure:
    return Measure(name, value, unit, ratio, f"<= {target:g}", ratio <= target, note)


def peak_of(function: Callable[[], object], device: str) -> int:
    """Bytes that a call takes at its peak above what was there before (Linux, or a GPU)."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        base = torch.cuda.memory_allocated(device)
        function()
        return torch.cuda.max_memory_allocated(device) - base
    ctypes.CDLL(None).malloc_trim(0)  # what was left free would hide what the call takes
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    base = memory("VmRSS")
    function()
    return memory("VmHWM") - base


def memory(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at its peak."""
    return 1024 * int(Path("/proc/self/status").read_text().partition(f"{field}:")[2].split()[0])


def in_a_process_of_its_own(function: Callable[..., Iterator], *arguments) -> Iterator:
    """What function(*arguments) yields: memory is counted where nothing else was allocated before."""
    context = get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=sent, args=(there, function, arguments))
    process.start()
    there.close()
    try:
        while True:
            yield here.recv()
    except EOFError:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"the measuring process ended with status {process.exitcode}") from None


def sent(pipe, function: Callable[..., Iterator], arguments: tuple) -> None:
    torch.set_num_threads(1)
    for each in function(*arguments):
        pipe.send(each)
