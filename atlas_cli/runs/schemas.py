"""The lines of a run directory as pydantic models; the package docstring says what each field means."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal[
    "base-weights",
    "activations",
    "gradients",
    "features",
    "feature-gradients",
    "adapters",
    "base-change",
    "base-total",
    "fingerprint",
    "head",
    "labels",
]
KINDS: tuple[str, ...] = get_args(Kind)
Count = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Figures = dict[str, float | None]


class Record(BaseModel):
    """Base: unknown, missing, coerced or non-finite values are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class MetricsRecord(Record):
    """A line of metrics.jsonl."""

    round: Count
    task_group: str
    train_loss: float | None
    test: Figures
    metric: str | None = None
    better: Literal["higher", "lower"] | None = None
    models: Count | None = None
    examples: Count
    tokens: Count
    bytes_up: Count
    bytes_down: Count
    seconds: Annotated[float, Field(ge=0)]
    samples_per_second: float | None
    aggregation_error: float | None
    aggregation_truncation: float | None
    aggregation_cross_term: float | None
    aggregation_by_layer: dict[str, Figures] | None
    server_lr: float | None
    client_lr: float | None
    simulated_seconds: float | None
    simulated_joules: float | None
    epsilon: dict[str, float | Literal["infinite"]]
    epsilon_of: dict[str, str] = Field(default_factory=dict)
    delta: float
    participants: list[str]
    dropped: dict[str, str]
    norms: dict[str, Figures] | None = None


class ClientRecord(Record):
    """A line of clients.jsonl."""

    round: Count
    client: str
    task_group: str
    cluster: str | None
    participated: bool
    train_loss: float | None
    steps: Count
    examples: Count
    tokens: Count
    weight: float | None
    bytes_up: Count
    bytes_down: Count
    held_sha256: Sha256 | None
    delivered_sha256: Sha256 | None
    local_test: Figures | None
    simulated: Figures | None
    norms: dict[str, Figures] | None = None


class ClustersRecord(Record):
    """A line of clusters.jsonl."""

    round: Count
    by: str
    assignment: dict[str, str]
    moved: list[str]
    silhouette_by_k: dict[str, float]
    agreement: dict[str, float] | None


class MessageRecord(Record):
    """A line of messages.jsonl."""

    round: Count
    client: str
    kind: Kind
    direction: Literal["up", "down"]
    messages: Count
    bytes: Count
    payload_bytes: Count
    closed_form_bytes: Count | None


class RecordedMessage(Record):
    """A line of messages/index.jsonl."""

    round: Count
    client: str
    number: Count
    kind: Kind
    direction: Literal["up", "down"]
    file: str | None
    bytes: Count
    sha256: Sha256 | None


class SumsRecord(Record):
    """A line of sums.jsonl."""

    file: str
    crc32: Annotated[str, Field(pattern=r"^([0-9a-f]{8})+$")]


class Batch(Record):
    """The batch during which memory was measured: examples, and tokens with padding."""

    size: Count
    tokens: Count


class HolderMemory(Record):
    """Bytes that one client or the server holds."""

    frozen_weights: Count
    adapters: Count
    heads: Count
    gradients: Count
    optimizer: Count
    saved_activations: Count
    cut_buffers: Count
    total: Count
    batch: Batch


class ReferenceMemory(Record):
    """Bytes of another way to train the same model; ``how`` says how the figures were come by."""

    weights: Count
    adapters: Count = 0
    gradients: Count
    optimizer: Count
    saved_activations: Count
    total: Count
    how: str


class References(Record):
    """What a run is compared with."""

    full_fine_tuning: ReferenceMemory
    unsplit_lora: ReferenceMemory


class MemoryRecord(Record):
    """The whole of memory.json."""

    unit: Literal["bytes"]
    measured_in_round: Count
    clients: dict[str, HolderMemory]
    server: HolderMemory | None
    not_measured: list[str]
    references: References


SCHEMAS: dict[str, type[Record]] = {
    "metrics.jsonl": MetricsRecord,
    "clients.jsonl": ClientRecord,
    "clusters.jsonl": ClustersRecord,
    "messages.jsonl": MessageRecord,
    "messages/index.jsonl": RecordedMessage,
    "sums.jsonl": SumsRecord,
    "memory.json": MemoryRecord,
}
