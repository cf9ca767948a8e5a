"""What crosses the wire, and the ledger that counts it.

A message is named tensors; its size is the length of its safetensors serialisation, header included. Shapes: B batch,
T tokens (padded to the longest of the batch), D hidden size.

| kind              | direction | tensors |
|---|---|---|
| base-weights      | down      | the frozen client half, once, at set-up |
| adapters          | both      | lora_A (r, d_in), lora_B (d_out, r) of every adapted layer, as the method says |
| base-change       | down      | base_A (n, d_in), base_B (d_out, n): rows added to the base (``flora``, ``fedex``) |
| base-total        | down      | the same of all rows so far, in the place of what a client has that missed too many |
| activations       | up        | activations (B, T, D), attention_mask (B, T), and labels unless ``labels: client`` |
| gradients         | down      | gradients (B, T, D) of the client's own mean loss |
| features          | down      | features (B, T, D): the server half's output (``labels: client``) |
| feature-gradients | up        | gradients (B, T, D) and the count that weighs them (``labels: client``) |
| fingerprint       | up        | a sketch of the client's gradients (64,), for clustering |
| head              | both      | the head's parameters (``labels: client``, ``mode: federated``) |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

Direction = Literal["up", "down"]

# safetensors orders tensors by descending dtype, in this order of its own enumeration, then by name
_DTYPES: dict[torch.dtype, tuple[int, str]] = {
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
    order = sorted(tensors.items(), key=lambda item: (-_DTYPES[item[1].dtype][0], item[0]))
    header: dict[str, object] = {}
    offset = 0
    for name, tensor in order:
        end = offset + tensor.numel() * tensor.element_size()
        dtype = _DTYPES[tensor.dtype][1]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8 + offset


@dataclass(frozen=True)
class Message:
    """One message between a client and the server.

    Attributes:
        kind: see the table above.
        client: the client at one end; the server is at the other.
        direction: "up" to the server, "down" to the client.
        tensors: what is sent; detached from any graph.
    """

    kind: str
    client: str
    direction: Direction
    tensors: dict[str, Tensor]

    @cached_property
    def payload_bytes(self) -> int:
        """Bytes of the tensors alone."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    @cached_property
    def bytes(self) -> int:
        """Bytes as serialised."""
        return serialized_size(self.tensors)

    def to(self, client: str) -> Message:
        """The same message for another client, not measured again."""
        other = replace(self, client=client)
        other.__dict__.update(bytes=self.bytes, payload_bytes=self.payload_bytes)
        return other
