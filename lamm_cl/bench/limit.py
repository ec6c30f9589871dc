"""The physical limit: floating point operations of a step, counted, over the best rate of matrix products measured beside it."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from lamm_cl.bench.instruments import Measure, at_least, used
from lamm_cl.towers.linears import Layer

SHARE = 0.05  # of a step's operations, from which on a product's shape counts as one of the step's
SECONDS = 0.1  # for a product, in each turn

Product = tuple[int, int, int]  # (M, K) times (K, N)


@dataclass(frozen=True)
class Work:
    """What a step computes; a multiplication and an addition are two operations."""

    flops: int  # of products, convolutions and attention: all else is left out, here and in the limit
    products: tuple[Product, ...]  # shapes of the matrix products with a share in it, the largest first


def counted(step: Callable[[], object]) -> Work:
    """What one call computes, as torch counts it, and with what its count does not know: attention and packed products on a CPU.

    The same number whether frozen linear layers are plain or packed.
    """
    found: Counter[Product] = Counter()

    def product(M: int, K: int, N: int) -> int:
        found[M, K, N] += 2 * M * K * N
        return 2 * M * K * N

    def packed(x: Sequence[int], *_: object, out_shape: Sequence[int], **__: object) -> int:
        return product(prod(x[:-1]), x[-1], out_shape[-1])

    aten = torch.ops.aten
    forward, backward = (getattr(aten, f"_scaled_dot_product_flash_attention_for_cpu{which}") for which in ("", "_backward"))
    known = {
        aten.mm: lambda a, b, *_, **__: product(a[0], a[1], b[1]),
        aten.addmm: lambda bias, a, b, *_, **__: product(a[0], a[1], b[1]),
        forward: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        backward: lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(g, q, k, v),
    }  # fmt: skip
    if torch.backends.mkldnn.is_available():
        known[torch.ops.mkldnn._linear_pointwise] = packed
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        step()
    flops = counter.get_total_flops()
    return Work(flops, tuple(shape for shape, count in found.most_common() if count >= SHARE * flops))


def calls(product: Product, dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[], object]]:
    """A linear layer of this shape, by each library that there is here."""
    M, K, N = product
    x, weight, bias = (torch.randn(size, device=device, dtype=dtype) for size in ((M, K), (N, K), (N,)))
    found: dict[str, Callable[[], object]] = {"F.linear": partial(F.linear, x, weight, bias)}
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        found["oneDNN, packed"] = partial(Layer(weight, bias, dtype).forward, x)
    return found


class Limit:
    """The best rate of the products of a step, in FLOP/s, over their shapes and the calls; measured in turns with the step."""

    def __init__(self, products: Sequence[Product], dtype: torch.dtype, device: torch.device):
        self.device, self.made = device, {product: calls(product, dtype, device) for product in products}
        self.rates: dict[str, float] = {}

    @torch.no_grad()
    def turn(self) -> None:
        for (M, K, N), made in self.made.items():
            for name, call in made.items():
                call()
                start = time.perf_counter()
                while time.perf_counter() - start < SECONDS:
                    self.rates[name] = max(self.rates.get(name, 0.0), 2 * M * K * N / used(call, self.device))

    @property
    def best(self) -> float:
        return max(self.rates.values())


def share_of_limit(name: str, step: Callable[[], object], work: Work, what: str, dtype: torch.dtype, device: torch.device,
                   turns: int, target: float | None) -> Measure:  # fmt: skip
    """A step's rate in GFLOP/s, and as a share of the limit, both by seconds of the processor."""
    limit, seconds = Limit(work.products, dtype, device), float("inf")
    for _ in range(turns):
        limit.turn()
        seconds = min(seconds, used(step, device))
    rate = work.flops / seconds
    by = ", ".join(f"{call} {each / 1e9:.0f}" for call, each in limit.rates.items())
    note = f"{work.flops / 1e9:.3g} GFLOP in {seconds:.3g} s; {what}; products alone: {by} GFLOP/s"
    if target is None:
        return Measure(name, rate / 1e9, "GFLOP/s", rate / limit.best, note=note)
    return at_least(name, rate / 1e9, "GFLOP/s", rate / limit.best, target, note)
