"""The experiment config: what a YAML file may say, with defaults, units and ranges.

Unknown keys are errors and nothing is coerced (a string is not a number). The models are frozen: a config is read
once and never changed. What needs the model or the data to be checked (a split layer in range, a column that exists)
is checked in planning.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, field_validator

from atlas_cli.config.schema.aggregation import AggregationConfig
from atlas_cli.config.schema.audit import AuditConfig
from atlas_cli.config.schema.clustering import ClusteringConfig
from atlas_cli.config.schema.engine import EngineConfig
from atlas_cli.config.schema.faults import FaultsConfig, ScreenConfig
from atlas_cli.config.schema.partition import HoldoutConfig
from atlas_cli.config.schema.partition import PartitionConfig as PartitionConfig
from atlas_cli.config.schema.privacy import PrivacyConfig
from atlas_cli.config.schema.section import CheckedRanks, CheckedRanksOrAuto, Name, Section, SplitLayer, quantity
from atlas_cli.config.schema.task_groups import DataConfig as DataConfig
from atlas_cli.config.schema.task_groups import TaskGroupConfig as TaskGroupConfig
from atlas_cli.config.schema.training import OptimizerConfig as OptimizerConfig
from atlas_cli.config.schema.training import ScheduleConfig as ScheduleConfig
from atlas_cli.config.schema.training import TrainingConfig
from atlas_cli.units import parse_bytes, parse_compute, parse_power, parse_rate, parse_time


class ModelConfig(Section):
    """Which model, and where it is cut."""

    name: str = Field(
        description="packaged name (atlas models), hub id, local folder, GGUF file, or known architecture"
    )
    split_layer: SplitLayer = Field(
        None,
        description="blocks kept on the client; default: the middle of the model; auto: the deepest that fits every "
        "client's device",
    )
    init: Literal["pretrained", "random", "auto"] = Field(
        "pretrained", description="auto: pretrained where the weights can be reached, else random, and says so"
    )
    config: dict[str, Any] = Field({}, description="changes to the Hugging Face config; only with init: random")
    tokenizer: str | None = Field(None, description="where the tokenizer is, if not with the model")
    revision: str | None = Field(None, description="hub revision (branch, tag or commit)")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the frozen weights")
    fused_gelu: bool = Field(
        True, description="run GPT-2's gelu_new as one operation: the same function to 2e-7, under half the saved bytes"
    )


class LoraConfig(Section):
    """Adapters on the client half; a client may override the rank."""

    rank: CheckedRanks = 8
    alpha: float = Field(16.0, gt=0, le=1e30)  # its scale is a float32
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
    device: str | None = Field(None, description="name under devices, or a built-in profile (atlas devices)")


class ClientConfig(Section):
    """One client, or ``count`` alike."""

    task_group: str
    rank: CheckedRanksOrAuto | None = Field(
        None, description="default: lora.rank; auto: from the device's budgets (atlas ranks shows them)"
    )
    split_layer: SplitLayer = Field(
        None, description="of this client alone; default: model.split_layer; auto: the deepest that fits its device"
    )
    device: str | None = Field(None, description="name under devices, or a built-in profile (atlas devices)")
    checkpointing: bool = Field(False, description="activation checkpointing: less memory, one more forward a step")
    dtype: Literal["float32", "bfloat16"] | None = Field(
        None,
        description="of its frozen weights and of what it sends at the cut; default: model.dtype, from which they are "
        "cast. Its local test runs in it, group scores and mode centralized in model.dtype",
    )
    weight: float = Field(1.0, gt=0, description="in its group's merge, times what aggregation.weights gives")
    count: int = Field(1, ge=1, description="this many clients of this kind, named NAME-1, NAME-2, ...")


class DeviceConfig(Section):
    """What a device has, each with its unit."""

    memory: Annotated[str, quantity(parse_bytes)] | None = Field(None, description="for training, e.g. 2 GiB")
    compute: Annotated[str, quantity(parse_compute)] | None = Field(None, description="sustained, e.g. 20 GFLOP/s")
    uplink: Annotated[str, quantity(parse_rate)] | None = Field(None, description="e.g. 10 Mbit/s")
    downlink: Annotated[str, quantity(parse_rate)] | None = Field(None, description="e.g. 50 Mbit/s")
    latency: Annotated[str, quantity(parse_time)] | None = Field(None, description="one way, e.g. 40 ms")
    watts: Annotated[str, quantity(parse_power)] | None = Field(None, description="while it works, e.g. 5 W")


class AllocationConfig(Section):
    """How ``rank: auto`` shares a device's budgets among layers."""

    r_min: int = Field(1, ge=1)
    r_max: int = Field(64, ge=1)
    importance: Literal["gradient", "uniform", "random"] = Field(
        "gradient", description="gradient of lora_B on the client's own data; the others are controls of equal budget"
    )
    uplink_seconds: float | None = Field(None, gt=0, description="a client's upload of a round may take this long")


class EvaluationConfig(Section):
    """Evaluation on the held-out parts, in rounds 0, every, 2 every, ..., and the last."""

    every: int = Field(1, ge=1)
    batch_size: int = Field(32, ge=1, description="the most examples a pass; on a CPU also at most 512 tokens")


class CheckpointsConfig(Section):
    """What a stopped run goes on from."""

    every: int = Field(
        1, ge=1, description="rounds between two; the last is written, too, and on an interrupt or error the newest"
    )
    keep: int = Field(2, ge=1, description="this many of the newest")


class OutputConfig(Section):
    """Where run directories go."""

    dir: str = "runs"


class ClientSpec(NamedTuple):
    """One client after templates are expanded; ``key`` is where the config speaks of it."""

    name: str
    task_group: str
    rank: int | dict[int, int] | Literal["auto"]
    split_layer: int | Literal["auto"] | None
    device: str | None
    checkpointing: bool
    dtype: Literal["float32", "bfloat16"]
    weight: float
    key: str


class ExperimentConfig(Section):
    """One experiment."""

    name: Name
    seed: int = Field(0, ge=0, lt=2**64)
    data_seed: int | None = Field(
        None,
        ge=0,
        description="of held-out parts, samples and the partition; default: seed. One number for all runs of a sweep "
        "over seed gives them the same test parts and the same clients' rows",
    )
    mode: Literal["split-federated", "centralized", "local-only", "federated"] = "split-federated"
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$")
    threads: int | None = Field(
        None, ge=1, le=1024, description="CPU threads of torch; default: torch's own choice, recorded in the manifest"
    )
    model: ModelConfig
    lora: LoraConfig = LoraConfig()
    server: ServerConfig = ServerConfig()
    devices: dict[Name, DeviceConfig] = Field({}, description="devices of this experiment, by name")
    task_groups: dict[Name, TaskGroupConfig] = Field(min_length=1)
    clients: dict[Name, ClientConfig] = Field(min_length=1)
    allocation: AllocationConfig = AllocationConfig()
    holdout: HoldoutConfig = HoldoutConfig()
    partition: PartitionConfig = PartitionConfig()
    training: TrainingConfig = TrainingConfig()
    aggregation: AggregationConfig = AggregationConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    clustering: ClusteringConfig | None = Field(None, description="default: adapters are merged by task group")
    screen: ScreenConfig = ScreenConfig()
    faults: FaultsConfig = FaultsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    audit: AuditConfig | None = Field(None, description="default: no message is kept, and an audit has nothing to read")
    engine: EngineConfig = EngineConfig()
    output: OutputConfig = OutputConfig()

    @field_validator("task_groups", mode="before")
    @classmethod
    def _not_auto(cls, groups: Any) -> Any:
        if groups == "auto":
            raise ValueError(
                "name the data and the task of every client here; to let atlas find which clients to merge, add "
                "clustering: {k: auto}"
            )
        return groups

    @property
    def rows_seed(self) -> int:
        """Which rows are held out, sampled and dealt to whom."""
        return self.seed if self.data_seed is None else self.data_seed

    def expanded_clients(self) -> list[ClientSpec]:
        """All clients in the order of the file, templates expanded; rank and split layer as configured.

        The learner that pools all clients' data (``centralized``) has the one base, so there dtypes are the model's.
        """
        specs = []
        for name, client in self.clients.items():
            rank = self.lora.rank if client.rank is None else client.rank
            dtype = self.model.dtype if client.dtype is None or self.mode == "centralized" else client.dtype
            cut = self.model.split_layer if client.split_layer is None else client.split_layer
            for i in range(client.count):
                numbered = f"{name}-{i + 1}" if client.count > 1 else name
                own = (client.device, client.checkpointing, dtype, client.weight)
                specs.append(ClientSpec(numbered, client.task_group, rank, cut, *own, f"clients.{name}"))
        return specs
