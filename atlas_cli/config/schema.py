"""The experiment config: what a YAML file may say, with defaults, units and ranges.

Unknown keys are errors and nothing is coerced (a string is not a number). The models are frozen: a config is read
once and never changed. What needs the model or the data to be checked (a split layer in range, a column that exists)
is checked in planning.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model, model_validator

from atlas_cli import discovery
from atlas_cli.suggest import did_you_mean

Ranks = Annotated[
    int | dict[int, int],
    Field(description="LoRA rank for every client layer, or by layer: {0: 8, 1: 16} (layers not named get no adapter)"),
]
Share = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]


def _check_ranks(rank: int | dict[int, int]) -> int | dict[int, int]:
    by_layer = rank if isinstance(rank, dict) else {0: rank}
    if not by_layer or any(r < 1 for r in by_layer.values()):
        raise ValueError("rank must be at least 1 (name only the layers that get an adapter)")
    if any(layer < 0 for layer in by_layer):
        raise ValueError("layers count from 0")
    return rank


CheckedRanks = Annotated[Ranks, AfterValidator(_check_ranks)]


def _one_of(package: str) -> AfterValidator:
    def check(name: str) -> str:
        if name not in discovery.names(package):
            raise ValueError(f"{name!r} is not known{did_you_mean(name, discovery.names(package))}")
        return name

    return AfterValidator(check)


class Section(BaseModel):
    """Base of every part of the config: frozen, strict, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class ModelConfig(Section):
    """Which model, and where it is cut."""

    name: str = Field(
        description="packaged name (atlas models), hub id, local folder, GGUF file, or known architecture"
    )
    split_layer: int | None = Field(
        None, ge=1, description="blocks kept on the client; default: the middle of the model"
    )
    init: Literal["pretrained", "random", "auto"] = Field(
        "pretrained", description="auto: pretrained where the weights can be reached, else random, and says so"
    )
    config: dict[str, Any] = Field({}, description="changes to the Hugging Face config; only with init: random")
    tokenizer: str | None = Field(None, description="where the tokenizer is, if not with the model")
    revision: str | None = Field(None, description="hub revision (branch, tag or commit)")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the frozen weights")


class LoraConfig(Section):
    """Adapters on the client half; a client may override the rank."""

    rank: CheckedRanks = 8
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: Literal["auto"] | list[str] = Field(
        "auto", description="linear layers to adapt, by the end of their name in a block"
    )
    rslora: bool = Field(False, description="scale alpha / sqrt(rank) instead of alpha / rank")


class ServerConfig(Section):
    """What the server trains besides the heads."""

    rank: int = Field(
        0, ge=0, description="LoRA rank on the server half, a set of adapters a task group; 0: heads only"
    )


class _DataFields(Section):
    """Where a task group's examples come from (one source key), and which columns hold what."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    tokens: str | None = None
    tags: str | None = None
    question: str | None = None
    context: str | None = None
    answers: str | None = None
    prompt: str | None = None
    response: str | None = None
    subset: str | None = Field(None, description="configuration of a hub data set")
    split: str | None = Field(None, description="split of a hub data set to train on; default: train")
    test_split: str | None = Field(None, description="split of a hub data set to test on; default: a held-out part")
    test_files: str | list[str] | None = Field(None, description="files of the test part; default: a held-out part")
    test_fraction: float | None = Field(
        None, gt=0, lt=1, description="held-out part where the source has no official one; default: 0.2"
    )
    split_by: str | None = Field(None, description="keep rows that share this column on one side of the test split")
    limit: int | None = Field(None, ge=2, description="use at most this many training examples (seeded sample)")
    test_limit: int | None = Field(None, ge=1, description="use at most this many test examples (seeded sample)")

    @model_validator(mode="after")
    def _one_source(self) -> _DataFields:
        sources = discovery.names("data.sources")
        given = [s for s in sources if getattr(self, s) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of: {', '.join(sources)}" + (f" (given: {', '.join(given)})" if given else "")
            )
        return self

    @property
    def source(self) -> str:
        """Name of the data source: a file in ``data/sources/``."""
        return next(s for s in discovery.names("data.sources") if getattr(self, s) is not None)

    @property
    def location(self) -> list[str]:
        """What the source key says, always as a list."""
        value = getattr(self, self.source)
        return [value] if isinstance(value, str) else list(value)


DataConfig: type[_DataFields] = create_model(  # type: ignore[call-overload]
    "DataConfig",
    __base__=_DataFields,
    __doc__=_DataFields.__doc__,
    **{source: (str | list[str] | None, None) for source in discovery.names("data.sources")},
)


class TaskGroupConfig(Section):
    """Clients that train one task together."""

    task: Annotated[str, _one_of("tasks")]
    data: DataConfig
    classes: list[str] | None = Field(
        None, min_length=2, description="class names; default: those in the training data"
    )
    pooling: Literal["auto", "mean", "first", "last"] = Field(
        "auto", description="auto: mean for encoders, last token for decoders"
    )
    adapter: str | None = Field(None, description="folder of a PEFT adapter to start from")


class ClientConfig(Section):
    """One client, or ``count`` alike."""

    task_group: str
    rank: CheckedRanks | None = Field(None, description="default: lora.rank")
    count: int = Field(1, ge=1, description="this many clients of this kind, named NAME-1, NAME-2, ...")


class PartitionConfig(Section):
    """How a task group's training examples are dealt out to its clients."""

    scheme: Literal["iid", "dirichlet-label", "dirichlet-quantity", "column", "explicit"] = "iid"
    alpha: float = Field(0.5, gt=0, description="Dirichlet concentration; smaller is more skewed")
    column: str | None = Field(None, description="rows that share this column stay on one client (scheme: column)")
    shards: dict[str, list[int | str]] | None = Field(
        None, description="row numbers or ranges '0-99' by client (scheme: explicit)"
    )
    min_examples: int = Field(2, ge=1, description="a partition that leaves a client fewer is an error")
    local_test: float = Field(
        0.1, ge=0, lt=1, description="share of each client's examples kept as its local test part"
    )


class OptimizerConfig(Section):
    """Optimizer of one side."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: list[float] = Field([0.9, 0.999], min_length=2, max_length=2)
    momentum: float = Field(0.0, ge=0, lt=1)


class ScheduleConfig(Section):
    """Learning rate over all steps of the run."""

    name: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = Field(0.0, ge=0, lt=1, description="share of all steps")


class TrainingConfig(Section):
    """The rounds."""

    rounds: int = Field(10, ge=1)
    local_steps: int = Field(8, ge=1)
    batch_size: int = Field(8, ge=1)
    max_length: int = Field(128, ge=2, description="tokens; longer examples are cut")
    cohort: Share = Field(1.0, description="share of each group's clients in a round, at least one")
    server_update: Literal["pooled", "sequential", "per-client"] = "pooled"
    labels: Literal["server", "client"] = Field(
        "server", description="client: head and labels stay on the client (U-shaped)"
    )
    client_optimizer: OptimizerConfig = OptimizerConfig()
    server_optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    max_grad_norm: float | None = Field(1.0, gt=0)
    autocast: Literal["off", "bfloat16"] = "off"


class AggregationConfig(Section):
    """How a group's adapters are merged."""

    method: Annotated[str, _one_of("aggregation")] = "zero-pad"


class EvaluationConfig(Section):
    """Evaluation on the held-out parts, in rounds 0, every, 2 every, ..., and the last."""

    every: int = Field(1, ge=1)
    batch_size: int = Field(32, ge=1)


class OutputConfig(Section):
    """Where run directories go."""

    dir: str = "runs"


class ClientSpec(NamedTuple):
    """One client after templates are expanded; ``key`` is where the config speaks of it."""

    name: str
    task_group: str
    rank: int | dict[int, int]
    key: str


class ExperimentConfig(Section):
    """One experiment."""

    name: Name
    seed: int = Field(0, ge=0)
    mode: Literal["split-federated", "centralized", "local-only", "federated"] = "split-federated"
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    threads: int | None = Field(
        None, ge=1, description="CPU threads of torch; default: torch's own choice, recorded in the manifest"
    )
    model: ModelConfig
    lora: LoraConfig = LoraConfig()
    server: ServerConfig = ServerConfig()
    task_groups: dict[Name, TaskGroupConfig] = Field(min_length=1)
    clients: dict[Name, ClientConfig] = Field(min_length=1)
    partition: PartitionConfig = PartitionConfig()
    training: TrainingConfig = TrainingConfig()
    aggregation: AggregationConfig = AggregationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    output: OutputConfig = OutputConfig()

    def expanded_clients(self) -> list[ClientSpec]:
        """All clients in the order of the file, templates expanded; rank as configured, lora.rank where silent."""
        specs = []
        for name, client in self.clients.items():
            rank = self.lora.rank if client.rank is None else client.rank
            many = client.count > 1
            for i in range(client.count):
                specs.append(
                    ClientSpec(f"{name}-{i + 1}" if many else name, client.task_group, rank, f"clients.{name}")
                )
        return specs
