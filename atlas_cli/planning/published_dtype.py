"""The dtype of a model's published weights, which plans take where nobody names another."""

from __future__ import annotations

from typing import Literal

from transformers import PreTrainedConfig


def published_dtype(config: PreTrainedConfig) -> str | None:
    """The dtype of a model's published weights (``bfloat16``) by its config; None where that names none."""
    found = getattr(config, "dtype", None)
    return None if found is None else str(found).removeprefix("torch.")


def planned_dtype(config: PreTrainedConfig) -> Literal["float32", "bfloat16"]:
    """The dtype in which a model is planned by default: the published one, float32 where none is named.

    No run computes in float16; it is planned as bfloat16, which is as large.
    """
    return "bfloat16" if published_dtype(config) in ("bfloat16", "float16") else "float32"


def dtype_note(dtype: str, published: str | None) -> str:
    """The dtype of a plan's weights, and how it compares with the published one."""
    if published is None:
        return f"planned for weights in {dtype}; the model's config names no dtype; see --dtype"
    if dtype == published:
        return f"planned for weights in {dtype}, as they are published; see --dtype"
    alike = "as large as the published" if (dtype, published) == ("bfloat16", "float16") else "and published in"
    return f"planned for weights in {dtype}, {alike} {published}; see --dtype"
