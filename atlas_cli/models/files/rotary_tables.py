"""The rotary tables of a model: one for all blocks, or one for each type of attention (``layer_types``)."""

from __future__ import annotations

from typing import Any


def rotary_tables(rope_parameters: Any) -> dict[str, dict[str, Any]]:
    """The parameters of each table by the key that they have in config.json; none without rotary positions."""
    found = rope_parameters if isinstance(rope_parameters, dict) else {}
    of_types = {name: table for name, table in found.items() if isinstance(table, dict)}
    if of_types:
        return {f"rope_parameters.{name}": table for name, table in of_types.items()}
    return {"rope_parameters": found} if found else {}
