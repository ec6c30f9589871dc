"""The frozen linear layers of a block: as torch computes them, with weights kept in half precision, or packed for oneDNN.

Plain   F.linear and the block's own MLP, in the precision of their inputs.  The only ones whose weights may learn.
Kept    in bf16 or fp16: the weights are cast once, where autocast casts frozen ones again at every use.  The same bits.
Packed  on a CPU: weights in the layout that oneDNN's kernels read, once for the way forward and, from the first backward pass
        on, once for the way back.  A layer is one node of the graph, with its bias inside, and so is an MLP, which keeps its
        hidden layer before the activation alone.  QuickGELU x sigmoid(1.702 x) is silu(1.702 x) / 1.702: one fused function, both
        factors folded into the weights.  Sums are rounded in another order (about 5e-6 of the largest value).

Whether packed ones are used is decided by a self-check (towers/selfcheck.py).
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

QUICK = 1.702


class Block(Protocol):
    """What is read of open_clip's transformer block; its linear layers are ours."""

    ln_1: nn.LayerNorm
    ln_2: nn.LayerNorm
    attn: Any  # nn.MultiheadAttention
    mlp: Any  # c_fc, gelu, c_proj
    linears: "Plain"


LAYERS = ("qkv", "out", "up", "down")


def layer_of(block: Block, name: str) -> tuple[Tensor, Tensor]:
    """Weights (o, i) and bias (o,) of one of a block's LAYERS, as they are now: whoever trains may have put others there."""
    if name == "qkv":
        return block.attn.in_proj_weight, block.attn.in_proj_bias
    layer = block.attn.out_proj if name == "out" else block.mlp.c_fc if name == "up" else block.mlp.c_proj
    return layer.weight, layer.bias


class Plain:
    """What torch computes.  Inputs are normed (N, L, d); d the block's width."""

    def __init__(self, block: Block):
        self.block = block

    def layer(self, name: str) -> tuple[Tensor, Tensor]:
        return layer_of(self.block, name)

    def qkv(self, h: Tensor) -> Tensor:
        """(N, L, d) -> queries, keys and values side by side (N, L, 3 d)."""
        return F.linear(h, *self.layer("qkv"))

    def query(self, h: Tensor) -> Tensor:
        """(N, L, d) -> (N, L, d)."""
        W, b = self.layer("qkv")
        return F.linear(h, W[: h.shape[-1]], b[: h.shape[-1]])

    def keys_values(self, h: Tensor) -> Tensor:
        """(N, L, d) -> (N, L, 2 d)."""
        W, b = self.layer("qkv")
        return F.linear(h, W[h.shape[-1] :], b[h.shape[-1] :])

    def out(self, a: Tensor) -> Tensor:
        """What the heads found, side by side (N, L, d) -> (N, L, d)."""
        return F.linear(a, *self.layer("out"))

    def mlp(self, h: Tensor) -> Tensor:
        """(N, L, d) -> (N, L, d)."""
        return F.linear(self.block.mlp.gelu(F.linear(h, *self.layer("up"))), *self.layer("down"))


class Made(Plain):
    """Layers made of a block's weights, each when it is first asked for; a copy of the block begins with plain ones."""

    def __init__(self, block: Block, dtype: torch.dtype):
        super().__init__(block)
        self.dtype = dtype

    def __deepcopy__(self, memo: dict) -> Plain:
        return Plain(memo[id(self.block)])


class Kept(Made):
    @cached_property
    def cast(self) -> dict[str, tuple[Tensor, Tensor]]:
        layers = {name: layer_of(self.block, name) for name in LAYERS}
        return {name: (W.detach().to(self.dtype), b.detach().to(self.dtype)) for name, (W, b) in layers.items()}

    def layer(self, name: str) -> tuple[Tensor, Tensor]:
        return self.cast[name]


class Layer:
    """y = x (w W)^T + v b through oneDNN, of weights that never change.  W (o, i), b (o,), w and v numbers."""

    def __init__(self, W: Tensor, b: Tensor, dtype: torch.dtype, w: float = 1.0, v: float = 1.0):
        self.W, self.b, self.dtype, self.w = W.detach(), (v * b.detach()).to(dtype), dtype, w

    @cached_property
    def ahead(self) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight((self.w * self.W).to(self.dtype))

    @cached_property
    def behind(self) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight((self.w * self.W).to(self.dtype).t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.ahead, self.b, "none", [], "")

    def backward(self, g: Tensor) -> Tensor:
        """The gradient of y -> that of x."""
        return torch.ops.mkldnn._linear_pointwise(g.to(self.dtype), self.behind, None, "none", [], "")


class Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        return layer.forward(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple:
        return ctx.layer.backward(g).to(ctx.dtype), None


class MLP(torch.autograd.Function):
    """down(activation(up(x))), keeping up(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Layer, down: Layer, activation: Callable, slope: Callable) -> Tensor:
        h = up.forward(x)
        ctx.save_for_backward(h)
        ctx.layers, ctx.slope, ctx.dtype = (up, down), slope, x.dtype
        return down.forward(activation(h))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple:
        (h,), (up, down) = ctx.saved_tensors, ctx.layers
        return up.backward(ctx.slope(down.backward(g), h)).to(ctx.dtype), None, None, None, None


class Packed(Made):
    def __init__(self, block: Block, dtype: torch.dtype):
        super().__init__(block, dtype)
        self.quick = not isinstance(block.mlp.gelu, nn.GELU)
        self.activation = (F.silu, torch.ops.aten.silu_backward) if self.quick else (F.gelu, torch.ops.aten.gelu_backward)

    @cached_property
    def layers(self) -> dict[str, Layer]:
        (W, b), w = self.layer("qkv"), QUICK if self.quick else 1.0
        d = W.shape[1]
        return {
            "qkv": Layer(W, b, self.dtype),
            "query": Layer(W[:d], b[:d], self.dtype),
            "keys_values": Layer(W[d:], b[d:], self.dtype),
            "out": Layer(*self.layer("out"), self.dtype),
            "up": Layer(*self.layer("up"), self.dtype, w, w),
            "down": Layer(*self.layer("down"), self.dtype, 1 / w),
        }

    def qkv(self, h: Tensor) -> Tensor:
        return Linear.apply(h, self.layers["qkv"])

    def query(self, h: Tensor) -> Tensor:
        return Linear.apply(h, self.layers["query"])

    def keys_values(self, h: Tensor) -> Tensor:
        return Linear.apply(h, self.layers["keys_values"])

    def out(self, a: Tensor) -> Tensor:
        return Linear.apply(a, self.layers["out"])

    def mlp(self, h: Tensor) -> Tensor:
        return MLP.apply(h, self.layers["up"], self.layers["down"], *self.activation)


def made(block: Block, lower: torch.dtype | None, packed: bool) -> Plain:
    """The linear layers of a block.  lower: bf16 or fp16, None in fp32."""
    if packed:
        return Packed(block, lower or torch.float32)
    return Kept(block, lower) if lower else Plain(block)
