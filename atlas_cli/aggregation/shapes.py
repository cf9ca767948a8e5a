"""Tensors that are brought to another shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def resized(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor truncated, or padded with zeros at the end, in each dimension to another shape."""
    result = tensor.new_zeros(tuple(shape))
    both = tuple(slice(min(a, b)) for a, b in zip(tensor.shape, shape, strict=True))
    result[both] = tensor[both]
    return result


def mean_of_states(states: Sequence[tuple[float, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """By name, the weighted sum at the largest shape; a state without a name counts as zero."""
    result: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for _, state in states for name in state):
        held = [(share, state[name]) for share, state in states if name in state]
        shape = [max(sizes) for sizes in zip(*(value.shape for _, value in held), strict=True)]
        result[name] = sum((share * resized(value, shape) for share, value in held), held[0][1].new_zeros(shape))
    return result
