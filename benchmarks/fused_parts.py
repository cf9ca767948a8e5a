"""What fusing elementwise work with torch.compile is worth beside products whose weights lie in order, on one thread.

    python benchmarks/fused_parts.py    about 2 minutes on one core, with a C++ compiler

The part of a block that no adapter touches, from the output of attention to the last norm: product, residual, norm,
product, GELU, product, residual, norm. "compiled" has the same products as calls, and all between them fused, forward
and backward; "GELU in the product" is the forward alone (evaluation), with oneDNN's GELU at the end of its product.
Each takes turns with the part as it is, and a ratio is the median of the ratios of neighbours: above 1 is faster. CPU
seconds; weights are random, since only shapes matter.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from atlas_cli.models.frozen.kernel_order import in_order
from atlas_cli.reports.terminal import Terminal

TURNS, ROWS = 25, (24, 100, 200, 512, 1024)
SIZES = {"minilm": (384, 1536, "none"), "gpt2": (768, 3072, "tanh")}  # width, that of the feed-forward, kind of GELU
_packed: list[Tensor] = []  # a graph knows a weight in order by its number here: inductor takes none as it is


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = Table("size", "tokens", "ms", "compiled", "quartiles", "GELU in the product", "quartiles", box=box.MARKDOWN)
    for name, (width, wide, gelu) in SIZES.items():
        part = Part(width, wide, gelu)
        compiled = torch.compile(part, dynamic=True)
        for rows in ROWS:
            shape = rows, width
            as_it_is, ratios = compared(partial(trained, shape), part, compiled)
            _, forward = compared(partial(evaluated, shape), part, part.with_gelu_in_the_product)
            table.add_row(name, f"{rows:,}", f"{1000 * as_it_is:.1f}", *_cells(ratios), *_cells(forward))
    Terminal(width=120).print(table)


class Product(torch.autograd.Function):
    """A frozen layer of weights in order, as atlas computes it, by an operator that a graph can hold."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer) -> Tensor:
        """W x + b."""
        ctx.layer = layer
        return torch.ops.fused_parts.product(x, layer.ahead, layer.bias, layer.d_out)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """W^T g."""
        return torch.ops.fused_parts.product(gradient, ctx.layer.ahead + 1, None, ctx.layer.d_in), None


class Layer(nn.Module):
    """A frozen linear layer."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.d_in, self.d_out, self.ahead = d_in, d_out, len(_packed)
        weight = torch.randn(d_out, d_in) * 0.02
        self.bias = torch.randn(d_out) * 0.01
        _packed.extend((in_order(weight), in_order(weight.t().contiguous())))

    def forward(self, x: Tensor) -> Tensor:
        """W x + b."""
        return Product.apply(x, self)


class Part(nn.Module):
    """From the output of attention (N, D) and the block's input (N, D) to the block's output (N, D)."""

    def __init__(self, width: int, wide: int, gelu: str) -> None:
        super().__init__()
        self.out, self.up, self.down = Layer(width, width), Layer(width, wide), Layer(wide, width)
        self.first, self.last = (nn.LayerNorm(width).requires_grad_(False) for _ in range(2))
        self.gelu = gelu

    def forward(self, attended: Tensor, x: Tensor) -> Tensor:
        """As a model computes it."""
        x = self.first(self.out(attended) + x)
        return self.last(self.down(functional.gelu(self.up(x), approximate=self.gelu)) + x)

    def with_gelu_in_the_product(self, attended: Tensor, x: Tensor) -> Tensor:
        """The forward alone, with GELU as what oneDNN does at the end of a product."""
        x = self.first(self.out(attended) + x)
        pointwise = torch.ops.mkldnn._linear_pointwise.default
        wide = pointwise(x, _packed[self.up.ahead], self.up.bias, "gelu", [], self.gelu)
        return self.last(self.down(wide) + x)


def trained(shape: tuple[int, int], part: Callable[..., Tensor]) -> float:
    """CPU seconds of a forward and a backward."""
    attended, x = (torch.randn(shape, requires_grad=True) for _ in range(2))
    gradient, began = torch.randn(shape), time.process_time()
    part(attended, x).backward(gradient)
    return time.process_time() - began


@torch.no_grad()
def evaluated(shape: tuple[int, int], part: Callable[..., Tensor]) -> float:
    """CPU seconds of a forward without a graph."""
    attended, x = (torch.randn(shape) for _ in range(2))
    began = time.process_time()
    part(attended, x)
    return time.process_time() - began


def compared(
    seconds: Callable[[Callable[..., Tensor]], float], ours: Callable[..., Tensor], other: Callable[..., Tensor]
) -> tuple[float, list[float]]:
    """Median seconds of ``ours``, and the ratios of its seconds to those of ``other``, after three turns unseen."""
    pairs = [(seconds(ours), seconds(other)) for _ in range(TURNS + 3)][3:]
    return statistics.median(mine for mine, _ in pairs), [mine / theirs for mine, theirs in pairs]


def _cells(ratios: list[float]) -> tuple[str, str]:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f}", f"{low:.2f} to {high:.2f}"


def _product(x: Tensor, number: int, bias: Tensor | None, d_out: int) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, _packed[number], bias, "none", [], "")
    assert found.shape[-1] == d_out
    return found


_library = torch.library.Library("fused_parts", "DEF")
_library.define("product(Tensor x, int number, Tensor? bias, int d_out) -> Tensor")
_library.impl("product", _product, "CPU")
torch.library.register_fake(
    "fused_parts::product", lambda x, number, bias, d_out: x.new_empty(*x.shape[:-1], d_out), lib=_library
)

if __name__ == "__main__":
    main()
