"""The bytes of a message's tensors, header included: as safetensors writes them, or with a compact header.

The header of safetensors is JSON, some 80 bytes a tensor, which is much beside one short text in 4 bits. The compact
one is

    a byte 255, with which no file of safetensors begins, and the number of tensors; then for each
    a byte for its name, 128 + its place among ``NAMES``, or else the length of the name, and the name in UTF-8;
    a byte for its type, a byte for its number of dimensions,
    and each dimension;

the number of tensors and dimensions are in 7 bits a byte, low bits first, with the highest bit where more follow. The
tensors follow without gaps, in that order. It takes the place of the other where that is more than 2 % of a
message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from safetensors.torch import load, save
from torch import Tensor

MARK, LARGE = 255, 0.02
SUFFIXES = (".safetensors", ".compact")  # of files, by their header
NAMES = (
    *("activations", "attention_mask", "labels", "examples", "lengths", "gradients", "features", "count"),
    *("activations_scale", "gradients_scale", "features_scale"),
    *("values", "scale", "indices", "ranks", "rows"),
)

# safetensors orders tensors by descending dtype, in this order of its own enumeration, then by name
DTYPES: dict[torch.dtype, tuple[int, str]] = {
    torch.bool: (0, "BOOL"),
    torch.uint8: (1, "U8"),
    torch.int8: (2, "I8"),
    torch.int16: (3, "I16"),
    torch.float16: (4, "F16"),
    torch.bfloat16: (5, "BF16"),
    torch.int32: (6, "I32"),
    torch.float32: (7, "F32"),
    torch.float64: (8, "F64"),
    torch.int64: (9, "I64"),
}


def serialized_size(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of ``safetensors.torch.save(tensors)`` without writing them.

    Needs shapes and dtypes only, so meta tensors do.
    """
    order = sorted(tensors.items(), key=lambda item: (-DTYPES[item[1].dtype][0], item[0]))
    header: dict[str, object] = {}
    offset = 0
    for name, tensor in order:
        end = offset + tensor.numel() * tensor.element_size()
        dtype = DTYPES[tensor.dtype][1]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8 + offset


def compact_size(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of ``to_bytes(tensors)`` without writing them; meta tensors do."""
    whole = serialized_size(tensors)
    payload = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if whole - payload <= LARGE * whole or any(len(name.encode()) > 127 for name in tensors):
        return whole
    return payload + len(_header(tensors))


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors with a compact header where that of safetensors is a large part of them, else as safetensors."""
    whole = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    if compact_size(tensors) == len(whole):
        return whole
    data = (tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy() for _, tensor in _ordered(tensors))
    return _header(tensors) + b"".join(each.tobytes() for each in data)


def from_bytes(data: bytes) -> dict[str, Tensor]:
    """The tensors of ``to_bytes``."""
    if data[:1] != bytes([MARK]):
        return load(data)
    types = {code: dtype for dtype, (code, _) in DTYPES.items()}
    layouts = []
    count, at = _number(data, 1)
    for _ in range(count):
        end = at + 1 + (data[at] if data[at] < 128 else 0)
        name = data[at + 1 : end].decode() if data[at] < 128 else NAMES[data[at] - 128]
        dtype, dimensions = types[data[end]], data[end + 1]
        at, shape = end + 2, []
        for _ in range(dimensions):
            size, at = _number(data, at)
            shape.append(size)
        layouts.append((name, dtype, torch.Size(shape)))
    found = {}
    for name, dtype, sizes in layouts:
        end = at + sizes.numel() * dtype.itemsize
        part = bytearray(data[at:end])
        raw = torch.frombuffer(part, dtype=torch.uint8) if part else torch.empty(0, dtype=torch.uint8)
        found[name], at = raw.view(dtype).view(sizes), end
    return found


def _ordered(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    return sorted(tensors.items())


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    header = bytearray([MARK, *_digits(len(tensors))])
    for name, tensor in _ordered(tensors):
        text = name.encode()
        header += bytes([128 + NAMES.index(name)]) if name in NAMES else bytes([len(text), *text])
        header += bytes([DTYPES[tensor.dtype][0], tensor.dim()])
        for size in tensor.shape:
            header += _digits(size)
    return bytes(header)


def _digits(number: int) -> bytes:
    """A number in 7 bits a byte."""
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def _number(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at a byte, and where the next does."""
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
