"""One training step, as memory is predicted for it: its batch, its number types and what it trains."""

from __future__ import annotations

from dataclasses import dataclass

from atlas_cli.config.schema.experiment import Learns
from atlas_cli.models.adapters.lora import LORA, AdapterForm
from atlas_cli.models.cut_parts import NO_PARTS, CutParts
from atlas_cli.models.frozen.weight_format import Quantization, WeightFormat

ELEMENT = {"float32": 4, "bfloat16": 2}  # bytes of a number of a type


def gets_gradient(learns: Learns) -> bool:
    """Whether a client that learns so gets a gradient from the server."""
    return learns in ("backprop", "zeroth-order")


@dataclass(frozen=True)
class Step:
    """A training step of one party, apart from the model, its cut and its adapters' ranks.

    Attributes:
        batch: Examples in the batch.
        tokens: Tokens of each example, padding included.
        padded: Whether the batch has padding.
        dtype: Type of the party's frozen weights, "float32" or "bfloat16"; adapters, their gradients and the
            optimizer's moments are always float32.
        checkpointing: Whether blocks are run again in the backward pass instead of keeping their activations.
        fused_gelu: Whether the GELU of the blocks is one operation.
        dropout: Dropout of the adapters.
        autocast: Whether the step computes in bfloat16.
        received_dtype: Type of what the party gets over the network, if it is not ``dtype``: the activations that a
            server gets, or the features that a client with a head of its own gets.
        trained: The parts of the adapters that are trained.
        optimizer: "adamw", "sgd" or "sgd-momentum".
        embedding_rows: How many rows of the token embedding the party holds; None: all of its table.
        quantization: How it holds the linear layers of its blocks.
        answered: Whether a server computes a gradient at the cut, for a client that gets it.
        form: What the components of the adapters are.
        parts: What mechanisms add to the head of a client.
    """

    batch: int
    tokens: int
    padded: bool = True
    dtype: str = "float32"
    checkpointing: bool = False
    fused_gelu: bool = False
    dropout: float = 0.0
    autocast: bool = False
    received_dtype: str | None = None
    trained: tuple[str, ...] = ("A", "B")
    optimizer: str = "adamw"
    embedding_rows: int | None = None
    quantization: Quantization = "none"
    answered: bool = True
    form: AdapterForm = LORA
    parts: CutParts = NO_PARTS

    @property
    def weights(self) -> WeightFormat:
        """How the party holds its frozen weights."""
        return WeightFormat(self.dtype, self.quantization)

    @property
    def received(self) -> str:
        """Type of what the party gets over the network."""
        return self.received_dtype or self.dtype
