"""Adapters of several heads (RAVAN, Raje et al., 2506.05568): small square matrices between fixed bases.

    dW = sum_i s_i B_i H_i A_i,  B_i (d_out, m), H_i (m, m), A_i (m, d_in)

The rows of A_1, A_2, ... and the columns of B_1, B_2, ... are orthonormal, drawn from the seed, the layer and the
number of heads, and never change; H_i begins at 0 and s_i at 1. So dW has rank h m with only h (m^2 + 1) trained
numbers, the dW_i of different heads are orthogonal, and norm(dW_i) = |s_i| norm(H_i).

A head is a component of an adapter: its row of A is its number, from 0, by which its bases are known wherever it goes;
its column of B is H_i by rows, and s_i. Only B can be trained. What runs is a LoRA adapter of rank K m whose A are the
bases of its K heads and whose B are s_i B_i H_i, made once a pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from atlas_cli.errors import ConfigError
from atlas_cli.models.adapters.lora import AdapterForm, LoRAAdapter
from atlas_cli.seeding import torch_generator


class Bases:
    """The bases of all heads of a layer, by rows: A (h m, d_in), and B (h m, d_out) transposed.

    Adapters share them, their copies too.
    """

    def __init__(self, A: Tensor, B: Tensor, size: int) -> None:
        self.A, self.B, self.size = A, B, size

    def __deepcopy__(self, _: object) -> Bases:
        return self

    def of(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the heads of these numbers (K, 1)."""
        places = torch.arange(self.size, device=numbers.device)
        rows = (numbers.detach().long() * self.size + places).flatten().to(self.A.device)
        return tuple(base[rows].to(numbers) for base in (self.A, self.B))  # type: ignore[return-value]


@lru_cache(maxsize=1024)
def _orthonormal(rows: int, length: int, seed: int, side: str, path: str) -> Tensor:
    drawn = torch.randn(length, rows, generator=torch_generator(seed, "heads", side, path), dtype=torch.float64)
    return torch.linalg.qr(drawn)[0].t().float().contiguous()


def heads_of(B: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """H (K, m, m) and s (K,) of a B (m^2 + 1, K)."""
    return B[:-1].t().reshape(-1, size, size), B[-1]


class HeadsAdapter(LoRAAdapter):
    """The heads that a party has on one layer, with the numbers 0, 1, ... until others are loaded.

    Args:
        heads: how many.
        dropout: on the input, while training.
    """

    TRAINABLE = ("B",)

    def __init__(self, bases: Bases, heads: int, dropout: float = 0.0) -> None:
        nn.Module.__init__(self)
        self.rank, self.scaling, self.dropout, self._bases = heads, 1.0, dropout, bases
        self.lora_A = nn.Parameter(torch.arange(heads).float()[:, None], requires_grad=False)
        self.lora_B = nn.Parameter(torch.zeros(bases.size**2 + 1, heads))
        self.lora_B.data[-1] = 1
        self._own: tuple[object, tuple[Tensor, Tensor]] | None = None
        self._beside: tuple[Tensor, Tensor, tuple[Tensor, Tensor]] | None = None

    def factors(self) -> tuple[Tensor, Tensor]:
        """A (K m, d_in) and B (d_out, K m) of its heads."""
        A, B = self.fixed()
        return A, self._composed(B, self.lora_B)

    def fixed(self) -> list[Tensor]:
        """The bases of its heads."""
        mark = id(self.lora_A), self.lora_A._version, self.lora_A.device
        if self._own is None or self._own[0] != mark:
            self._own = mark, self._bases.of(self.lora_A)
        return list(self._own[1])

    @torch.no_grad()
    def beside(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """The factors of heads that it runs frozen; kept until it is given others."""
        if self._beside is None or self._beside[0] is not A or self._beside[1] is not B:
            of_A, of_B = self._bases.of(A)
            self._beside = A, B, (of_A, self._composed(of_B, B).contiguous())
        return self._beside[2]

    def _composed(self, bases: Tensor, B: Tensor) -> Tensor:
        """s_i B_i H_i side by side: (d_out, K m)."""
        H, s = heads_of(B, self._bases.size)
        by_rows = torch.bmm((s[:, None, None] * H).mT, bases.view(len(H), self._bases.size, -1))
        return by_rows.flatten(0, 1).t()

    def resize(self, rank: int) -> None:
        """Change the number of heads; A and B are new parameters, whose values must be loaded."""
        self.rank, A, B = rank, self.lora_A, self.lora_B
        self.lora_A = nn.Parameter(A.new_zeros(rank, 1), requires_grad=False)
        self.lora_B = nn.Parameter(B.new_zeros(B.shape[0], rank), B.requires_grad)


@dataclass(frozen=True)
class HeadsForm(AdapterForm):
    """Adapters of heads.

    Attributes:
        heads: h, of a group; ``size``: m.
    """

    heads: int
    size: int
    parts: ClassVar[tuple[str, ...]] = HeadsAdapter.TRAINABLE

    def sizes(self, d_in: int, d_out: int) -> tuple[int, int]:
        """A number, and H and s."""
        return 1, self.size**2 + 1

    def components(self, rank: int, d_in: int, d_out: int) -> int:
        """K = floor(r (d_in + d_out) / m^2), of as many trained numbers as LoRA of rank r; at most h.

        Raises:
            ConfigError: a layer is too small for the bases of all heads, whatever the rank.
            ValueError: the rank is worth less than a head.
        """
        if self.heads * self.size > min(d_in, d_out):
            raise ConfigError(
                f"{self.heads} heads of size {self.size} need bases of {self.heads * self.size} vectors, and a layer "
                f"of {d_in} x {d_out} has room for {min(d_in, d_out)}; lower heads or size",
                key="aggregation.options",
            )
        numbers = rank * (d_in + d_out)
        if numbers < self.size**2:
            raise ValueError(
                f"rank {rank} is worth {numbers} numbers, and one head of size {self.size} has {self.size**2}; take "
                f"rank {-(-(self.size**2) // (d_in + d_out))} or more, or lower aggregation.options.size"
            )
        return min(self.heads, numbers // self.size**2)

    def of_group(self, most: int) -> int:
        """All h, of which clients train some."""
        return self.heads

    def width(self, components: int) -> int:
        """K m."""
        return components * self.size

    def fixed(self, components: int, d_in: int, d_out: int) -> int:
        """The bases of K heads."""
        return components * self.size * (d_in + d_out)

    def step_flops(self, components: int, d_out: int) -> tuple[int, int]:
        """s_i B_i H_i, and the gradient of s_i H_i."""
        product = 2 * components * self.size**2 * d_out
        return product, product

    def worth(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """All s_i H_i in their places as one column: bases are orthonormal, so that its products are those of dW."""
        H, s = heads_of(B, self.size)
        column = B.new_zeros(self.heads, self.size**2)
        column[A[:, 0].long()] = (s[:, None, None] * H).flatten(1)
        return B.new_ones(1, 1), column.view(-1, 1)

    def blank(self, d_in: int, d_out: int, components: int, dropout: float) -> LoRAAdapter:
        """An adapter with bases of its own heads, of any values."""
        rows = components * self.size
        return HeadsAdapter(Bases(torch.zeros(rows, d_in), torch.zeros(rows, d_out), self.size), components, dropout)

    def build(
        self,
        d_in: int,
        d_out: int,
        components: int,
        *,
        alpha: float,
        dropout: float,
        rslora: bool,
        seed: int,
        path: str,
    ) -> LoRAAdapter:
        """The first heads of a layer, whose bases follow from the seed; ``alpha`` and ``rslora`` scale nothing."""
        rows = self.heads * self.size
        A, B = (_orthonormal(rows, *side, path) for side in ((d_in, seed, "A"), (d_out, seed, "B")))
        return HeadsAdapter(Bases(A, B, self.size), components, dropout)
