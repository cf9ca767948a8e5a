"""LoRA adapters (Hu et al., 2106.09685) that live outside the model: a client is a dictionary of small tensors.

The frozen base is never changed. A set of adapters is attached for the length of a forward and backward by forward
hooks on the layers it adapts, so that any number of clients share one base. dW = s * B @ A with A (r, d_in), B
(d_out, r), s = alpha / r, or alpha / sqrt(r) for rsLoRA (2312.03732).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from atlas_cli.models.adapters.add_low_rank import Span, add_low_rank
from atlas_cli.models.halves.recomputed_norms import mark_norms
from atlas_cli.seeding import torch_generator

Frozen = dict[str, Sequence[tuple[Tensor, Tensor]]]


def scale_of(rank: int, alpha: float, rslora: bool = False) -> float:
    """The factor s in dW = s * B @ A."""
    return alpha / math.sqrt(rank) if rslora else alpha / rank


def features_of(layer: nn.Module) -> tuple[int, int]:
    """(d_in, d_out) of a Linear or a GPT-2 Conv1D."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, Conv1D):
        return layer.nx, layer.nf
    raise TypeError(f"LoRA adapts Linear and Conv1D layers, not {type(layer).__name__}")


def initial_A(rank: int, d_in: int, generator: torch.Generator) -> Tensor:
    """A (r, d_in), uniform within 1 / sqrt(d_in) as PEFT draws it; the first rows do not depend on the rank."""
    bound = 1 / math.sqrt(d_in)
    return torch.rand(rank, d_in, generator=generator) * (2 * bound) - bound


class LoRAAdapter(nn.Module):
    """One adapter of one layer.

    Args:
        in_features: d_in of the adapted layer.
        out_features: d_out of the adapted layer.
        rank: r, from 1 to min(d_in, d_out).
        alpha: numerator of the scale.
        dropout: on the input of A, while training.
        rslora: scale alpha / sqrt(r) instead of alpha / r.

    Raises:
        ValueError: the rank is out of range.

    Example:
        >>> adapter = LoRAAdapter(in_features=8, out_features=6, rank=4, alpha=16)
        >>> adapter.scaling, adapter(torch.randn(2, 8)).shape
        (4.0, torch.Size([2, 6]))
    """

    TRAINABLE: ClassVar[tuple[str, ...]] = ("A", "B")  # parts that can be trained; not all, in another form of adapter

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        alpha: float = 16.0,
        dropout: float = 0.0,
        rslora: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= rank <= min(in_features, out_features):
            raise ValueError(f"rank {rank} is not within 1..{min(in_features, out_features)}")
        self.rank, self.alpha, self.rslora = rank, alpha, rslora
        self.scaling = scale_of(rank, alpha, rslora)
        self.dropout = dropout
        draw = generator if generator is not None else torch.default_generator
        self.lora_A = nn.Parameter(initial_A(rank, in_features, draw))
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """dW x for x (..., d_in): (..., d_out)."""
        A, B = self.factors()
        return self.scaling * functional.linear(self._down(x, A), B)

    def factors(self) -> tuple[Tensor, Tensor]:
        """A (r, d_in) and B (d_out, r) of dW = s * B @ A, differentiable: its parameters, if it has no other form."""
        return self.lora_A, self.lora_B

    def beside(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """The factors of dW of other, frozen components of its layer, which have the form of its own A and B."""
        return A, B

    def fixed(self) -> list[Tensor]:
        """Tensors that it holds besides its parameters: neither trained, sent nor stored."""
        return []

    @torch.no_grad()
    def shrink(self, rank: int) -> None:
        """Keep the first ``rank`` rows of A and columns of B, with their product; the parameters are new."""
        before, self.rank = self.scaling, rank
        self.scaling = scale_of(rank, self.alpha, self.rslora)
        self.lora_A = nn.Parameter(self.lora_A[:rank].clone(), self.lora_A.requires_grad)
        self.lora_B = nn.Parameter(self.lora_B[:, :rank] * (before / self.scaling), self.lora_B.requires_grad)

    def resize(self, rank: int) -> None:
        """Change the rank; A and B are new parameters, whose values must be loaded."""
        self.rank, self.scaling = rank, scale_of(rank, self.alpha, self.rslora)
        A, B = self.lora_A, self.lora_B
        self.lora_A = nn.Parameter(A.new_zeros(rank, A.shape[1]), A.requires_grad)
        self.lora_B = nn.Parameter(B.new_zeros(B.shape[0], rank), B.requires_grad)

    def add_to(self, output: Tensor, x: Tensor) -> Tensor:
        """``output + dW x``; the sum is taken in the adapter's dtype and returned in the output's."""
        if (self.dropout and self.training) or torch.is_autocast_enabled(x.device.type):
            return self._add_by_parts(output, x)
        rows = x.numel() // x.shape[-1]
        return add_low_rank(output, x, [Span(0, rows, self.scaling)], self.factors())

    def _add_by_parts(self, output: Tensor, x: Tensor) -> Tensor:
        A, B = self.factors()
        rows = torch.addmm(
            output.flatten(0, -2).to(B.dtype), self._down(x, A).flatten(0, -2), B.t(), alpha=self.scaling
        )
        return rows.view_as(output).to(output.dtype)

    def _down(self, x: Tensor, A: Tensor) -> Tensor:
        return functional.linear(functional.dropout(x.to(A.dtype), self.dropout, self.training), A)


class AdapterSet:
    """Adapters by the path of their layer in the base model, e.g. ``h.0.attn.c_attn``.

    Args:
        frozen: low-rank changes of the frozen weights, W + sum of B @ A, by path as pairs of A (r, d_in) and B (d_out,
            r), in the form of the layer's adapter; kept as the object that is given, so that sets may share it.
    """

    def __init__(self, adapters: Mapping[str, LoRAAdapter], frozen: Frozen | None = None) -> None:
        self.adapters = dict(adapters)
        self.frozen: Frozen = {} if frozen is None else frozen

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of each adapter."""
        return {path: adapter.rank for path, adapter in self.adapters.items()}

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters A and B of every adapter, in the order of the layers."""
        for adapter in self.adapters.values():
            yield from adapter.parameters()

    def trained(self, parts: Collection[str] = ("A", "B")) -> list[nn.Parameter]:
        """The trained parameters among ``parts``."""
        named = [(n, p) for adapter in self.adapters.values() for n, p in adapter.named_parameters()]
        return [p for name, p in named if p.requires_grad and name.removeprefix("lora_") in parts]

    @property
    def trained_parts(self) -> tuple[str, ...]:
        """The parts, "A" and "B", that are trained of every adapter."""
        first = next(iter(self.adapters.values()), None)
        named = first.named_parameters() if first is not None else ()
        return tuple(name.removeprefix("lora_") for name, parameter in named if parameter.requires_grad)

    def beside(self, path: str) -> list[tuple[Tensor, Tensor]]:
        """The changes of a layer's frozen weights as they are run: A (r, d_in) and B (d_out, r)."""
        adapter, pieces = self.adapters.get(path), self.frozen.get(path, ())
        return [(A, B) if adapter is None else adapter.beside(A, B) for A, B in pieces]

    def held_frozen(self) -> list[Tensor]:
        """What it holds that is not trained: all changes of the frozen weights, and what adapters have ``fixed``."""
        stored = [factor for pieces in self.frozen.values() for pair in pieces for factor in pair]
        run = [factor for path in self.frozen for pair in self.beside(path) for factor in pair]
        return [*stored, *run, *(tensor for adapter in self.adapters.values() for tensor in adapter.fixed())]

    def name_of(self, parameter: nn.Parameter) -> str:
        """``<path>.lora_A`` or ``<path>.lora_B`` for messages; "the head" for a parameter of no adapter."""
        named = ((f"{path}.{name}", p) for path, a in self.adapters.items() for name, p in a.named_parameters())
        return next((name for name, p in named if p is parameter), "the head")

    def train_only(self, parts: Collection[str]) -> None:
        """Train only ``parts``, as far as they can be trained, and freeze the other parts."""
        for adapter in self.adapters.values():
            trained = [part for part in parts if part in adapter.TRAINABLE]
            for name, parameter in adapter.named_parameters():
                parameter.requires_grad_(name.removeprefix("lora_") in trained)

    def state(self) -> dict[str, Tensor]:
        """The detached tensors ``<path>.lora_A`` and ``<path>.lora_B``, as they are sent and stored."""
        return {
            f"{path}.{name}": p.detach()
            for path, adapter in self.adapters.items()
            for name, p in adapter.named_parameters()
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load values, whose names and shapes must equal those of the set."""
        held = self.state()
        if held.keys() != state.keys():
            raise ValueError(f"adapter names differ: {sorted(held.keys() ^ state.keys())[:4]}")
        for name, tensor in state.items():
            if held[name].shape != tensor.shape:
                raise ValueError(f"{name}: shape {tuple(tensor.shape)} delivered, {tuple(held[name].shape)} held")
            held[name].copy_(tensor)

    def acting(self, wanted: Callable[[str], bool]) -> AdapterSet:
        """Those on layers with a wanted path that change what the layer gives: before training B is 0."""
        return AdapterSet(
            {path: adapter for path, adapter in self.adapters.items() if wanted(path) and adapter.lora_B.any()},
            {path: pieces for path, pieces in self.frozen.items() if wanted(path)},
        )

    def train(self, mode: bool = True) -> AdapterSet:
        """Switch dropout on or off."""
        for adapter in self.adapters.values():
            adapter.train(mode)
        return self

    @contextmanager
    def attached(self, base: nn.Module) -> Iterator[None]:
        """Inside the block, layers of ``base`` (or of a half, which shares its modules) add their adapter's output."""
        with ExitStack() as stack:
            stack.enter_context(mark_norms(base))
            for path in dict.fromkeys((*self.adapters, *self.frozen)):
                handle = base.get_submodule(path).register_forward_hook(self._adding(path))
                stack.callback(handle.remove)
            yield

    def _adding(self, path: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        adapter, beside = self.adapters.get(path), self.beside(path)

        def add(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            total = output  # summed in the dtype of the factors, rounded once
            for A, B in beside:
                total = total.to(A.dtype) + functional.linear(functional.linear(args[0].to(A.dtype), A), B)
            return (total if adapter is None else adapter.add_to(total, args[0])).to(output.dtype)

        return add


def joined(lower: AdapterSet, upper: AdapterSet) -> AdapterSet:
    """Join two sets into one, which shares the changed base of either."""
    # a client's base change is with its lower adapters, a group's with its merged ones
    return AdapterSet({**lower.adapters, **upper.adapters}, upper.frozen if upper.frozen else lower.frozen)


@dataclass(frozen=True)
class AdapterForm:
    """What the r components of an adapter are: here those of LoRA, of which each is a row of A and a column of B.

    An aggregation method may declare another form (``BaseMethod.form``), which is then that of all parties. A and B
    stay what is named, sent, merged and stored by components, as far as they can be trained; only the adapter knows
    what dW they make.

    Attributes:
        parts: those that can be trained.
    """

    parts: ClassVar[tuple[str, ...]] = LoRAAdapter.TRAINABLE

    def sizes(self, d_in: int, d_out: int) -> tuple[int, int]:
        """The numbers in a row of A and in a column of B."""
        return d_in, d_out

    def components(self, rank: int, d_in: int, d_out: int) -> int:
        """How many components a party of this rank has on a layer.

        Raises:
            ValueError: none, or the layer is too small; says why and what would fit.
        """
        return rank

    def of_group(self, most: int) -> int:
        """How many components a group's adapter has, if none of its clients has more than ``most``."""
        return most

    def width(self, components: int) -> int:
        """The rank of the dW of so many components."""
        return components

    def fixed(self, components: int, d_in: int, d_out: int) -> int:
        """How many numbers an adapter holds besides A and B (``LoRAAdapter.fixed``)."""
        return 0

    def step_flops(self, components: int, d_out: int) -> tuple[int, int]:
        """FLOPs of the factors of dW in a forward and a backward, whatever the batch."""
        return 0, 0

    def worth(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """A pair whose product stands for dW: the inner products of two are those of their dW."""
        return A, B

    def blank(self, d_in: int, d_out: int, components: int, dropout: float) -> LoRAAdapter:
        """An adapter of which only the shapes matter."""
        return LoRAAdapter(d_in, d_out, components, dropout=dropout)

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
        """The adapter of a layer before training: dW is 0, and the components of all ranks are nested."""
        generator = torch_generator(seed, "lora-A", path)
        return LoRAAdapter(d_in, d_out, components, alpha, dropout, rslora, generator)


LORA = AdapterForm()


def build_adapters(
    base: nn.Module,
    ranks: Mapping[str, int],
    *,
    alpha: float,
    dropout: float = 0.0,
    rslora: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
    form: AdapterForm = LORA,
) -> AdapterSet:
    """Build new adapters for layers of ``base``, with so many components each.

    They are seeded by the layer's path alone, so that all ranks are nested, and change nothing before training.
    """
    adapters = {}
    for path, rank in ranks.items():
        d_in, d_out = features_of(base.get_submodule(path))
        made = form.build(d_in, d_out, rank, alpha=alpha, dropout=dropout, rslora=rslora, seed=seed, path=path)
        adapters[path] = made.to(device)
    return AdapterSet(adapters)
