"""Where torch computes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lamm_cl.errors import UserError


def device(wanted: str) -> str:
    """auto, cpu or cuda -> cpu or cuda.  Raises UserError for cuda where there is none."""
    found = torch.cuda.is_available()
    if wanted == "cuda" and not found:
        raise UserError("--device cuda: torch finds no CUDA device here; expected cpu or auto")
    return wanted if wanted != "auto" else "cuda" if found else "cpu"


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: sums, and so results, do not depend on the machine's cores or on the number of jobs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
