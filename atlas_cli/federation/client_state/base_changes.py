"""Low-rank changes of frozen weights as named tensors: ``<path>/<number>/A`` (r, d_in) and ``/B`` (d_out, r)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from atlas_cli.storage.state_dict import require_tensor


def named_changes(frozen: Mapping[str, Sequence[tuple[Tensor, Tensor]]]) -> dict[str, Tensor]:
    """The changes of a set of adapters (``AdapterSet.frozen``); each layer's are numbered from 0 on."""
    pieces = ((f"{path}/{i}", piece) for path, each in frozen.items() for i, piece in enumerate(each))
    return {f"{where}/{part}": value for where, piece in pieces for part, value in zip("AB", piece, strict=True)}


def changes_by_path(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """The inverse of ``named_changes``: changes by path.

    They are copies, which lie as those of a client that was never put away: a view of a file's bytes begins at another
    address, by which the product with a single row may round.
    """
    frozen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name in sorted(tensors):  # a layer has two pieces at most: its changes, and what of them is in its adapter
        path, i, part = name.rsplit("/", 2)
        if part == "A":
            frozen.setdefault(path, []).append(
                (tensors[name].to(device, copy=True), tensors[f"{path}/{i}/B"].to(device, copy=True))
            )
    return frozen


def require_changes(
    where: str, tensors: Mapping[str, Tensor], features: Mapping[str, tuple[int, int]], pieces: int = 2
) -> None:
    """Check names, shapes and types of changes that were read from a file.

    Args:
        where: prefix of every name in a message.
        features: (d_in, d_out) of the layers that may have changes.
        pieces: the largest number of changes of a layer.

    Raises:
        StateError: a change fits no layer, or is incomplete.
    """
    numbers: dict[str, set[int]] = {}
    for name, value in tensors.items():
        path, number, part = [*name.rsplit("/", 2), "", ""][:3]
        known = path in features and part in ("A", "B") and number.isdecimal()
        require_tensor(known, f"{where}{name}", "is of no layer that has adapters")
        require_tensor(value.is_floating_point(), f"{where}{name}", f"has type {value.dtype}")
        numbers.setdefault(path, set()).add(int(number))
    for path, found in numbers.items():
        d_in, d_out = features[path]
        numbered = len(found) <= pieces and found == set(range(len(found)))
        require_tensor(numbered, f"{where}{path}", f"has the pieces {sorted(found)}, expected up to {pieces} from 0")
        for pair in (f"{path}/{i}" for i in sorted(found)):
            shapes = [tuple(tensors[n].shape) if (n := f"{pair}/{part}") in tensors else None for part in "AB"]
            rank = shapes[0][0] if shapes[0] else 0
            fits = shapes == [(rank, d_in), (d_out, rank)]
            require_tensor(fits, f"{where}{pair}", f"has shapes {shapes}, expected (r, {d_in}) and ({d_out}, r)")
