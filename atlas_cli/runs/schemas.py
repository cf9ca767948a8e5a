"""What each file of records in a run directory holds, as pydantic models.

``docs/scripts/run_directory_tables.py`` makes the tables of docs/reference/run-directory.md of them.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from atlas_cli.runs.memory_schemas import MemoryRecord
from atlas_cli.runs.names_of_many import Range, number_of
from atlas_cli.runs.record import Count, Record

Kind = Literal[
    "base-weights",
    "activations",
    "rows",
    "gradients",
    "features",
    "feature-gradients",
    "adapters",
    "base-change",
    "base-total",
    "control-variates",
    "fingerprint",
    "head",
    "labels",
]
KINDS: tuple[str, ...] = get_args(Kind)
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Figures = dict[str, float | None]


class CompressedStepRecord(Record):
    """A step with codecs and without."""

    client: str
    loss: float
    exact_loss: float
    gradient: Figures | None
    server_gradient: Figures | None


class ClassCounts(Record):
    """Counts of a class in the test part."""

    labels: Count
    predicted: Count
    right: Count


class MetricsRecord(Record):
    """A line of metrics.jsonl."""

    round: Count = Field(description="Number of the round; 0 is before training.")
    task_group: str = Field(description="Name of the task group.")
    train_loss: float | None = Field(description="Mean over the labels of the round's participants; null in round 0.")
    test: Figures = Field(
        description="Metrics on the held-out test part, the primary one first; empty in a round without evaluation."
    )
    validation: Figures | None = Field(
        default=None,
        description=(
            "The same metrics on the validation part; empty in a round without evaluation, and the field is there only "
            "where the group has a validation part."
        ),
    )
    metric: str | None = Field(default=None, description="Name of the task's primary metric.")
    better: Literal["higher", "lower"] | None = Field(
        default=None,
        description="Whether a `higher` or a `lower` value of the primary metric is better.",
    )
    models: Count | None = Field(
        default=None,
        description=(
            "How many models `test` is of: 1, the group's; several, those of its clients or clusters, with the "
            "plain mean over clients (also of perplexities)."
        ),
    )
    test_trials: dict[str, Count] | None = Field(
        default=None,
        description=(
            "Where `test` is of one model: by figure that is a share of cases (`accuracy`, `exact_match`), of how many."
        ),
    )
    test_by_class: dict[str, ClassCounts] | None = Field(
        default=None,
        description=(
            "Where `test` is of one model and the task has classes: by class (or type of entity), how often it was "
            "a label (`labels`), was predicted (`predicted`), and both at once (`right`)."
        ),
    )
    examples: Count = Field(description="Sequences trained on in this round; of question answering each window is one.")
    tokens: Count = Field(description="Tokens of these sequences, without padding.")
    bytes_up: Count = Field(description="Serialised bytes of all messages from the group's clients to the server.")
    bytes_down: Count = Field(description="Serialised bytes of all messages from the server to the group's clients.")
    seconds: Annotated[float, Field(ge=0)] = Field(
        description="Wall seconds of this group's local steps and evaluation in the round; groups add up. Deliveries, "
        "checks, records and checkpoints are not in it: of many clients they take longer."
    )
    samples_per_second: float | None = Field(description="Rate of training alone; null in round 0.")
    aggregation_error: float | None = Field(
        description=(
            "norm(delivered - X) / norm(X) against the exact sum X, over all layers, root mean square over the "
            "group's clients; null where it does not apply; see [methods](../concepts/merging.md)."
        ),
    )
    aggregation_truncation: float | None = Field(
        description="The part of the aggregation error that comes from cutting ranks."
    )
    aggregation_cross_term: float | None = Field(
        description="The part of the aggregation error that comes from the method's rule itself."
    )
    aggregation_by_layer: dict[str, Figures] | None = Field(
        description=(
            "The three by layer: `total`, `truncation`, `cross_term`; null where a group's clients are merged in "
            "several clusters (the figures above are then over all of them)."
        ),
    )
    optimizer_truncation: float | None = Field(
        default=None,
        description=(
            "With `aggregation.optimizer` only: the share of the norm of the running sum of changes that the cut to "
            "its rank lost after this merge; null where nothing was merged ([merging](../concepts/merging.md))."
        ),
    )
    server_lr: float | None = Field(
        description="Learning rate of the server at the last step of the round; null in round 0."
    )
    client_lr: float | None = Field(
        description="Learning rate of the clients at the last step of the round; null in round 0."
    )
    simulated_seconds: float | None = Field(
        description=(
            "Seconds of the whole round on the virtual clock, where clients have devices; null where one of the "
            "round's lacks a figure. `virtual_clock` in the manifest, and the run's first lines, say which, what "
            "unknown latencies and links count as, and whether the server was assumed."
        ),
    )
    simulated_joules: float | None = Field(description="Energy of the whole round on the virtual clock; null as above.")
    epsilon: dict[str, float | Literal["infinite"]] = Field(
        description=(
            "Epsilon of all rounds so far, by channel; `infinite` where no mechanism bounds it, 0 where nothing was "
            "sent ([privacy](../concepts/privacy.md))."
        ),
    )
    epsilon_of: dict[str, str] = Field(
        default_factory=dict,
        description=(
            "By channel with a mechanism, what its epsilon is for: a client, an example (a row with all its "
            "windows), its words, its label."
        ),
    )
    delta: float = Field(description="Delta of all these epsilons.")
    spent: dict[str, float | Literal["infinite"]] | None = Field(
        default=None,
        description=(
            "With `privacy.budget` only: the largest epsilon of a client of the group so far, by channel with a "
            "budget, at the budget's delta and with what earlier runs on the ledger told."
        ),
    )
    frozen: list[str] | None = Field(
        default=None,
        description="With `privacy.budget` only: clients of the group that are not drawn any more (`then: freeze`).",
    )
    participants: list[str] = Field(
        description="Clients of the group whose work is in the round's merge; empty in round 0."
    )
    dropped: dict[str, str] = Field(
        description="By client of the cohort whose work is not in the merge, the reason; see "
        "[faults](../concepts/faults.md)."
    )
    staleness: dict[str, int] | None = Field(
        default=None,
        description="With `training.asynchrony` only: by client whose update came, how often its group was merged "
        "since it started ([the clock](../concepts/clock.md#clients-that-wait-for-nobody)).",
    )
    norms: dict[str, Figures] | None = Field(
        default=None,
        description=(
            "With `privacy.updates` or `privacy.examples` only: by mechanism, norms before and after clipping and "
            "noise, means over participants ([privacy](../concepts/privacy.md))."
        ),
    )
    compression: dict[str, Figures] | None = Field(
        default=None,
        description="With `wire` only: by kind of message with a codec, over all messages of the group in the round, "
        "the norm of what was decoded less what was encoded, by that of the latter (`relative_error`), and the cosine "
        "of the two (`cosine`) ([bytes at the cut](../concepts/wire.md)).",
    )
    compressed_step: CompressedStepRecord | None = Field(
        default=None,
        description="With `wire` only: the first step of the round of one client (`client`) that has codecs, computed "
        "with them and without, from the same state: `loss` and `exact_loss`, and `relative_error` and `cosine` of the "
        "gradient of what the client trains (`gradient`; null where none comes back) and of what the server trains "
        "(`server_gradient`; null where it trains nothing) ([bytes at the cut](../concepts/wire.md)).",
    )


class RecordOfClients(Record):
    """A line of one client, or of several of which all else is the same."""

    round: Count = Field(description="Number of the round; 0 is before training.")
    client: str | None = Field(
        default=None,
        description="Name of the client; not in a line [of many](#lines-of-many-clients).",
    )
    names: list[Range] | None = Field(
        default=None,
        description='Only in a line of many clients: their names, and `["c", 5, 7]` for `c-5`, `c-6` and `c-7`.',
    )
    count: Count | None = Field(
        default=None, description="Only in a line of many clients: how many they are; all figures are of each of them."
    )

    @model_validator(mode="after")
    def _is_of_somebody(self) -> Self:
        if self.client is not None:
            if self.names is not None or self.count is not None:
                raise ValueError("has client and names")
        elif self.names is None or self.count != number_of(self.names):
            raise ValueError("has neither client nor as many names as count says")
        return self


class ClientRecord(RecordOfClients):
    """A line of clients.jsonl."""

    task_group: str = Field(description="Name of its task group.")
    cluster: str | None = Field(description="Whose adapters it is merged with; null: those of its task group.")
    participated: bool = Field(description="Whether its work of the round counted.")
    train_loss: float | None = Field(description="Mean over the labels of its local steps; null when it took no part.")
    steps: Count = Field(description="Local steps.")
    examples: Count = Field(description="Sequences trained on in this round; of question answering each window is one.")
    tokens: Count = Field(description="Tokens of these sequences, without padding.")
    weight: float | None = Field(
        description=(
            "Its share in the merge by `aggregation.weights`; null for one that is not in it, or `learns: frozen`; "
            "equal with `trimmed-mean` and `median`. With `aggregation.normalise: fednova` it is that of its change "
            "per step. With `hetlora` it is of heads and of the sum X alone (adapters are weighed by norms, a layer at "
            "a time); with `none`, and in modes without a merge, of nothing; a layer that not all hold is shared out "
            "anew among those that do."
        ),
    )
    bytes_up: Count = Field(description="Serialised bytes that it sent.")
    bytes_down: Count = Field(description="Serialised bytes that it was sent.")
    held_sha256: Sha256 | None = Field(
        description="Hash of the adapters that it holds; null where nothing is delivered."
    )
    delivered_sha256: Sha256 | None = Field(
        description=(
            "Hash of the adapters that the server delivered: equal to `held_sha256`, or the run stops; null where "
            "nothing is delivered."
        ),
    )
    local_test: Figures | None = Field(
        description="Metrics on its own test part, with the model that it would use; null without one."
    )
    simulated: Figures | None = Field(
        description=(
            "Its part of the round on the virtual clock: seconds of `compute`, `upload`, `server`, `download` and "
            "`wait`, which sum to the round's; when its adapters were sent (`finished`); `joules`. Null as in "
            "metrics.jsonl. With `training.asynchrony` they are of its whole pass, which may have begun in an earlier "
            "round, sum to the time of the pass, and are in the round in which it ends, merged or not ([the clock]"
            "(../concepts/clock.md#clients-that-wait-for-nobody))."
        ),
    )
    norms: dict[str, Figures] | None = Field(
        default=None,
        description="With `privacy.updates` or `privacy.examples` only, and in the merge only: norms of this client.",
    )
    epsilon: dict[str, float | Literal["infinite"]] | None = Field(
        default=None,
        description=(
            "By channel with a mechanism, epsilon of this client or of any of its examples so far; with "
            "`privacy.examples` in the last round only, at its sampling rate rounded up to two digits."
        ),
    )
    labels: dict[str, Count] | None = Field(
        default=None,
        description=(
            "In round 0, for tasks with classes: how often each class is a label of its training rows (tags: of its "
            "words). Where lines are of many clients, labels.jsonl has it instead."
        ),
    )


class LabelsRecord(Record):
    """A line of labels.jsonl."""

    task_group: str = Field(description="Name of the task group.")
    names: list[Range] = Field(description="Its clients, as in lines of many clients; the columns are in their order.")
    classes: list[str] = Field(description="Every class that is a label of a training row.")
    distinct: list[Count] = Field(description="How many classes a client's training rows have, by client.")
    places: list[Count] = Field(description="These classes, client after client, as places in `classes` from 0 on.")
    counts: list[Count] = Field(description="How often each is a label of the client's training rows.")

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        if number_of(self.names) != len(self.distinct):
            raise ValueError(f"has {number_of(self.names):,} names and {len(self.distinct):,} numbers in distinct")
        if not sum(self.distinct) == len(self.places) == len(self.counts):
            raise ValueError(
                f"has {len(self.places):,} places and {len(self.counts):,} counts, where distinct adds up to"
                f" {sum(self.distinct):,}"
            )
        if max(self.places, default=-1) >= len(self.classes):
            raise ValueError(f"has place {max(self.places)} of {len(self.classes)} classes, counted from 0")
        return self


class ClustersRecord(Record):
    """A line of clusters.jsonl."""

    round: Count = Field(description="The round that the clustering comes before; 0 is before training.")
    by: str = Field(description="How clusters were found, as in the config.")
    assignment: dict[str, str] = Field(description="Cluster by client.")
    moved: list[str] = Field(description="Clients whose cluster is another than before.")
    silhouette_by_k: dict[str, float] = Field(description="Mean silhouette of fingerprints by number of clusters.")
    agreement: dict[str, float] | None = Field(
        description=(
            "Agreement with the task groups, `ari` and `nmi`, and the 95th percentile of shuffled assignments; null "
            "with one task group."
        ),
    )


class MessageRecord(RecordOfClients):
    """A line of messages.jsonl."""

    kind: Kind = Field(description="Kind of the messages, described in [methods](../concepts/split.md).")
    direction: Literal["up", "down"] = Field(
        description="`up`: from the client to the server; `down`: from the server to the client."
    )
    messages: Count = Field(description="How many messages.")
    bytes: Count = Field(description="Their size as serialised, headers and names included.")
    payload_bytes: Count = Field(description="Bytes of the tensors' data as sent.")
    closed_form_bytes: Count | None = Field(
        description=(
            "What the formula says `payload_bytes` must be: equal, or the run stops; null where there is no formula."
        ),
    )
    relative_error: float | None = Field(
        default=None,
        description="Where a codec of `wire` encoded them: the norm of what was decoded less what was encoded, by that "
        "of the latter; null for zeros.",
    )
    cosine: float | None = Field(default=None, description="Likewise, the cosine of the two.")


class MessageIndexRecord(Record):
    """A line of messages/index.jsonl."""

    round: Count = Field(description="Number of the round.")
    client: str = Field(description="The client that sent or got the message.")
    number: Count = Field(description="Which of the client's messages of the round it is, by the ledger's count.")
    kind: Kind = Field(description="Kind of the message, as in messages.jsonl.")
    direction: Literal["up", "down"] = Field(description="`up` or `down`, as in messages.jsonl.")
    file: str | None = Field(
        description=(
            "Where it lies under messages/; null for the message at which the limit was reached: recording ends there."
        ),
    )
    bytes: Count = Field(description="Its size as serialised.")
    sha256: Sha256 | None = Field(description="Hash of the file; null where there is none.")


class SumsRecord(Record):
    """A line of sums.jsonl."""

    file: str = Field(description="One of the files above.")
    crc32: Annotated[str, Field(pattern=r"^([0-9a-f]{8})+$")] = Field(
        description="The sums of the lines that were added to it at once, in order, 8 hexadecimal digits each."
    )


SCHEMAS: dict[str, type[Record]] = {
    "metrics.jsonl": MetricsRecord,
    "clients.jsonl": ClientRecord,
    "labels.jsonl": LabelsRecord,
    "clusters.jsonl": ClustersRecord,
    "messages.jsonl": MessageRecord,
    "messages/index.jsonl": MessageIndexRecord,
    "sums.jsonl": SumsRecord,
    "memory.json": MemoryRecord,
}
