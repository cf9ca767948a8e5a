"""A function of tensors whose forward and backward are replayed: a CUDA graph of each.

``torch.cuda.make_graphed_callables`` does the same with a copy for each input and without a copy of the gradients,
which the next replay would then overwrite in parameters that wait for their step. Here a pass with hundreds of adapters
fills its inputs in one call for each dtype, and the gradients that it gives are the caller's own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from atlas_cli.models.cuda_graphs.recorder import Recorder

Compute = Callable[[Sequence[Tensor]], Tensor]


class _Use:
    """A forward whose backward may come; it is gone with the graph of autograd that it is in."""


class Lane:
    """What computations that share memory are replayed in: one at a time, from its forward to its backward."""

    def __init__(self) -> None:
        self._use: Callable[[], _Use | None] = lambda: None

    @property
    def busy(self) -> bool:
        """Whether there is a forward whose backward may come."""
        return self._use() is not None

    def begin(self) -> _Use:
        """Begin the one use of the lane."""
        use = _Use()
        self._use = weakref.ref(use)
        return use

    def has(self, use: _Use | None) -> bool:
        """Whether this is the use that began last."""
        return use is not None and self._use() is use


class Captured:
    """``compute`` as it was recorded for inputs of these shapes.

    Args:
        compute: gives one tensor that needs a gradient. Of its inputs it may use the values on the device alone. What
            else it reads has to stay where it is as long as this is used.
        like: inputs, of whose values none is looked at: it is recorded for zeros, so that what a recording took from
            values, and a replay therefore does not see change, is wrong for others.

    Raises:
        RuntimeError: it cannot be recorded.
    """

    def __init__(self, compute: Compute, like: Sequence[Tensor], recorder: Recorder, lane: Lane) -> None:
        self._lane = lane
        self._inputs = inputs = [torch.zeros_like(t).requires_grad_(t.requires_grad) for t in like]
        wanted, live = [t for t in inputs if t.requires_grad], list[Tensor]()

        def both() -> None:
            output = compute(inputs)
            torch.autograd.grad(output, wanted, torch.zeros_like(output))

        def forward() -> list[Tensor]:
            live.append(compute(inputs))
            return [live[0].detach()]

        def backward() -> list[Tensor]:
            return list(torch.autograd.grad(live.pop(), wanted, self._at_output))

        recorder.warm_up(both)
        (self._output,), self._replay_forward = recorder.record(forward)
        self._at_output = torch.zeros_like(self._output)
        self._gradients, self._replay_backward = recorder.record(backward)
        # tensors of one dtype are filled in one call
        self._by_dtype = [
            ([i for i, t in enumerate(inputs) if t.dtype == dtype], [t.detach() for t in inputs if t.dtype == dtype])
            for dtype in {t.dtype for t in inputs}
        ]

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """What ``compute`` gives for ``inputs``: a tensor that the next call overwrites."""
        found: Tensor = _Replay.apply(self, *inputs)
        return found

    def replay_forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, _Use]:
        """The output for these inputs, without a graph of autograd, and the use that its backward belongs to."""
        for places, held in self._by_dtype:
            torch._foreach_copy_(held, [inputs[i].detach() for i in places])
        self._replay_forward()
        return self._output.detach(), self._lane.begin()

    def replay_backward(self, gradient: Tensor, use: _Use | None) -> list[Tensor | None]:
        """The gradients at the inputs, None where there is none to compute.

        Raises:
            RuntimeError: another forward has overwritten what the backward needs.
        """
        if not self._lane.has(use):
            raise RuntimeError("the forward that this backward belongs to was overwritten by another")
        self._at_output.copy_(gradient)
        self._replay_backward()
        own = iter(torch._foreach_mul(self._gradients, 1))  # copies, in one call
        return [next(own) if t.requires_grad else None for t in self._inputs]


def departure(captured: Captured, compute: Compute, inputs: Sequence[Tensor]) -> float:
    """How far a replay is from the computation itself, output and gradients: the largest difference of two tensors as a
    share of the norm of what was computed; infinite for what is not finite.

    Inputs are moved a little first, so that none that is 0 hides what was captured of it.
    """
    moved = [t.detach() + 0.01 * _ramp(t) if t.is_floating_point() else t for t in inputs]
    moved = [t.requires_grad_(like.requires_grad) for t, like in zip(moved, inputs, strict=True)]
    found, expected = _with_gradients(captured, moved), _with_gradients(compute, moved)
    norms = torch.stack([torch.stack([(a - b).norm(), b.norm()]) for a, b in zip(found, expected, strict=True)]).cpu()
    shares = norms[:, 0] / norms[:, 1].clamp_min(torch.finfo(norms.dtype).tiny)
    return float(torch.nan_to_num(shares, nan=torch.inf).max())


def _with_gradients(compute: Compute, inputs: Sequence[Tensor]) -> list[Tensor]:
    wanted = [t for t in inputs if t.requires_grad]
    output = compute(inputs)
    found = [output, *torch.autograd.grad(output, wanted, _ramp(output))]
    return [t.detach().to(torch.promote_types(t.dtype, torch.float32), copy=True) for t in found]


def _ramp(like: Tensor) -> Tensor:
    """Numbers from -1 to 1."""
    found = torch.linspace(-1, 1, like.numel(), device=like.device, dtype=torch.float32)
    return found.view(like.shape).to(like.dtype)


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, captured: Captured, *inputs: Tensor) -> Tensor:
        ctx.captured = captured
        output, ctx.use = captured.replay_forward(inputs)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        use, ctx.use = ctx.use, None
        return None, *ctx.captured.replay_backward(gradient, use)
