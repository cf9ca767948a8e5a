"""FLOPs as torch counts them while something runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from atlas_cli.planning.devices.cost import ATTENTION_BACKWARD

T = TypeVar("T")


def counted(function: Callable[[], T]) -> tuple[T, int]:
    """What a function gives, and the FLOPs of matrix products and attention in it."""
    with FlopCounterMode(display=False, custom_mapping=_COUNTED) as counter:
        result = function()
    return result, counter.get_total_flops()


def _in_place(_total: Any, left: Sequence[int], right: Sequence[int], **_: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


def _grouped(rows: Sequence[int], matrices: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * rows[0] * matrices[-2] * matrices[-1]


def _attention(query: Sequence[int], *_: Any, **__: Any) -> int:
    batch, heads, tokens, width = query
    return 4 * batch * heads * tokens**2 * width  # as torch counts it on other devices


def _attention_backward(_gradient: Any, query: Sequence[int], *_: Any, **__: Any) -> float:
    return ATTENTION_BACKWARD * _attention(query)


# what torch's counter does not know: the products of experts, and what a CPU has
_COUNTED = {
    torch.ops.aten._grouped_mm: _grouped,
    torch.ops.aten.addmm_: _in_place,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
