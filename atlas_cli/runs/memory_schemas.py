"""What memory.json holds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from atlas_cli.runs.record import Count, Record


class Batch(Record):
    """The batch during which memory was measured: examples, and tokens with padding."""

    size: Count = Field(description="Examples in the batch.")
    tokens: Count = Field(description="Tokens in the batch, padding included.")
    client: str | None = Field(default=None, description="On the server, the client whose batch it was.")


class HolderMemory(Record):
    """Bytes that one client or the server holds."""

    frozen_weights: Count = Field(description="The frozen half.")
    adapters: Count = Field(description="The adapters.")
    heads: Count = Field(description="The heads, and an output embedding that is not the half's own.")
    gradients: Count = Field(description="Gradients of what is trained.")
    optimizer: Count = Field(description="State of the optimizer.")
    saved_activations: Count = Field(description="What is kept for the backward pass, by saved-tensor hooks.")
    cut_buffers: Count = Field(
        description="Activations at the cut and their gradients; `kept_activations`, `kept_texts` and `kept_adapters`, "
        "too."
    )
    total: Count = Field(description="The sum.")
    embedding_rows: Count | None = Field(
        default=None,
        description="With `embedding: rows`, how many rows of the token embedding it holds; they are part of "
        "`frozen_weights`.",
    )
    kept_activations: Count | None = Field(
        default=None,
        description="On the server, those that it keeps of the texts that `frozen` clients have sent by then; they are "
        "part of `cut_buffers`.",
    )
    kept_tokens: dict[str, Count] | None = Field(
        default=None, description="By frozen client, the tokens of these texts."
    )
    kept_texts: Count | None = Field(
        default=None,
        description="What codecs keep of texts at this end (`delta`, `feedback`) when the round ends, wherever it lies "
        "(part of `cut_buffers`).",
    )
    text_tokens: Count | None = Field(default=None, description="At a client, the tokens of these texts.")
    kept_adapters: Count | None = Field(
        default=None,
        description="With codecs of `adapters` or `deliveries`, at a client: its copy of what it was delivered, which "
        "it has while it trains, and with `feedback` what its uploads lost; at the server, with codecs of "
        "`deliveries`: what each client was delivered last, in the round or not (part of `cut_buffers`).",
    )
    batch: Batch = Field(
        description="The batch during which it was measured: its `size` in examples, and its `tokens` with padding; "
        "on the server, the `client` whose it was."
    )


class ReferenceMemory(Record):
    """Bytes of another way to train the same model; ``how`` says how the figures were come by."""

    weights: Count = Field(description="All weights.")
    adapters: Count = Field(default=0, description="The adapters.")
    gradients: Count = Field(description="Gradients of what is trained.")
    optimizer: Count = Field(description="State of the optimizer.")
    saved_activations: Count = Field(
        description=(
            "What is kept for the backward pass: traced on tensors without storage, so that a run needs no memory "
            "for it."
        ),
    )
    total: Count = Field(description="The sum.")
    how: str = Field(description="How the figures were come by.")


class References(Record):
    """What a run is compared with."""

    full_fine_tuning: ReferenceMemory
    unsplit_lora: ReferenceMemory


class MemoryRecord(Record):
    """The whole of memory.json."""

    unit: Literal["bytes"] = Field(description="The unit of all sizes.")
    measured_in_round: Count = Field(description="The round in which memory was measured.")
    clients: dict[str, HolderMemory] = Field(description="By client, the bytes that it held.")
    server: HolderMemory | None = Field(description="The bytes that the server held; null in modes without a server.")
    not_measured: list[str] = Field(
        description="Who took no step in the first round, such as a client whose Poisson samples were empty."
    )
    references: References = Field(description="The same batch by `full_fine_tuning` and by `unsplit_lora`.")
