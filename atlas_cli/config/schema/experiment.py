"""The experiment config: what a YAML file may say, with defaults, units and ranges.

Unknown keys are errors and nothing is coerced (a string is not a number). The models are frozen: a config is read
once and never changed. What needs the model or the data to be checked (a split layer in range, a column that exists)
is checked in planning.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator

from atlas_cli.config.client_names import ClientNames
from atlas_cli.config.schema.aggregation import AggregationConfig
from atlas_cli.config.schema.audit import AuditConfig
from atlas_cli.config.schema.clustering import ClusteringConfig
from atlas_cli.config.schema.devices import DeviceConfig as DeviceConfig
from atlas_cli.config.schema.engine import EngineConfig
from atlas_cli.config.schema.evaluation import EvaluationConfig
from atlas_cli.config.schema.faults import FaultsConfig, ScreenConfig
from atlas_cli.config.schema.output import CheckpointsConfig, OutputConfig
from atlas_cli.config.schema.partition import HoldoutConfig
from atlas_cli.config.schema.partition import PartitionConfig as PartitionConfig
from atlas_cli.config.schema.privacy import PrivacyConfig
from atlas_cli.config.schema.section import CheckedRanks, ClientRanks, Name, Section, SplitLayer
from atlas_cli.config.schema.task_groups import DataConfig as DataConfig
from atlas_cli.config.schema.task_groups import TaskGroupConfig as TaskGroupConfig
from atlas_cli.config.schema.training import OptimizerConfig as OptimizerConfig
from atlas_cli.config.schema.training import ScheduleConfig as ScheduleConfig
from atlas_cli.config.schema.training import TrainingConfig
from atlas_cli.config.schema.wire import WireConfig

Learns = Literal["backprop", "auxiliary", "zeroth-order", "frozen"]


class ModelConfig(Section):
    """Which model, and where it is cut."""

    name: str = Field(
        description="A packaged name (`atlas models`), a hub id, a local folder, a GGUF file, or a known architecture.",
        examples=["minilm"],
    )
    split_layer: SplitLayer = Field(
        None,
        description="How many blocks clients keep. Without it, the middle of the model; with `auto`, the deepest cut "
        "that fits every client's device.",
        examples=[3],
        json_schema_extra={"unit": "blocks"},
    )
    init: Literal["pretrained", "random", "auto"] = Field(
        "pretrained",
        description="Where weights come from. `auto` takes pretrained ones where they can be reached, else random "
        "ones, and says so.",
    )
    family: Literal["known", "auto"] = Field(
        "known",
        description="With `auto`, a model whose `model_type` no family covers is tried: its blocks are found by their "
        "shape, and nothing is trained unless the split then equals the unsplit model.",
        examples=["auto"],
    )
    config: dict[str, Any] = Field(
        {},
        description="Changes to the Hugging Face config; only with `init: random`.",
        examples=[{"n_layer": 4}],
    )
    tokenizer: str | None = Field(
        None, description="Where the tokenizer is, where it is not with the model.", examples=["gpt2-bpe"]
    )
    revision: str | None = Field(
        None, description="A revision of the hub: a branch, a tag or a commit.", examples=["main"]
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="The dtype of the frozen weights.")
    quantization: Literal["none", "nf4", "nf4-double", "int8"] = Field(
        "none",
        description="How the linear layers of the blocks are held, at the server, and at clients that do not say "
        "otherwise: `nf4` takes 4.5 bits a weight, `nf4-double` 4.13, `int8` 8. Embeddings, norms, heads and adapters "
        "stay as they are. Needs the extra `quantization`, on a CPU or CUDA.",
        examples=["nf4"],
    )
    fused_gelu: bool = Field(
        True,
        description="Run GPT-2's gelu_new as one operation: the same function to 2e-7, at under half the saved bytes.",
    )


class LoraConfig(Section):
    """Adapters on the client half; a client may override the rank."""

    rank: CheckedRanks = Field(
        8,
        description="The LoRA rank of every client layer, or a rank by layer; layers that are not named get no "
        "adapter.",
        examples=[{0: 8, 1: 16}],
    )
    alpha: float = Field(  # its scale is a float32
        16.0, gt=0, le=1e30, description="The scale of an adapter is alpha / rank."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="The chance that an adapter's input is set to 0 in training.")
    targets: Literal["auto"] | list[str] = Field(
        "auto",
        description="The linear layers to adapt, by the end of their name in a block; `auto` takes the family's.",
        examples=[["query", "value"]],
    )
    rslora: bool = Field(False, description="Scale by alpha / sqrt(rank) instead of alpha / rank.", examples=[True])


class ServerConfig(Section):
    """What the server trains besides the heads."""

    rank: int = Field(
        0,
        ge=0,
        description="The LoRA rank on the server half, with a set of adapters for each task group; 0 trains heads "
        "only.",
    )
    device: str | None = Field(
        None, description="A name under `devices`, or a built-in profile (`atlas devices`).", examples=["phone"]
    )


class ClientConfig(Section):
    """One client, or ``count`` alike."""

    task_group: str = Field(description="The task group that it trains for.", examples=["questions"])
    rank: ClientRanks | None = Field(
        None,
        description="Its LoRA rank, or a rank by layer; without it, `lora.rank`. `auto` finds ranks from the device's "
        "budgets, and `atlas ranks` shows them. A client that is `frozen` has no adapter: 0, or no key.",
        examples=[4],
    )
    learns: Learns = Field(
        "backprop",
        description="How its half learns. `backprop`: by the gradient that comes back from the server. `auxiliary`: by "
        "that of a loss at a head of its own, with no gradient from the server (`training.auxiliary`). `zeroth-order`: "
        "by an estimate of it from forward passes alone (`training.zeroth_order`). `frozen`: not at all; it has no "
        "adapter and no optimizer, gets no gradient, and sends the activations of a text once, for the server keeps "
        "them.",
        examples=["frozen"],
    )
    split_layer: SplitLayer = Field(
        None,
        description="How many blocks this client keeps; without it, `model.split_layer`. `auto` is the deepest cut "
        "that fits its device.",
        examples=["auto"],
        json_schema_extra={"unit": "blocks"},
    )
    device: str | None = Field(
        None, description="A name under `devices`, or a built-in profile (`atlas devices`).", examples=["phone"]
    )
    checkpointing: bool = Field(
        False,
        description="Blocks keep their input alone and run again in the backward: less memory, one more forward a "
        "step.",
        examples=[True],
    )
    dtype: Literal["float32", "bfloat16"] | None = Field(
        None,
        description="The dtype of its frozen weights and of what it sends at the cut; without it, `model.dtype`, from "
        "which they are cast. Its local test runs in it; group scores and `mode: centralized` run in `model.dtype`.",
        examples=["bfloat16"],
    )
    embedding: Literal["table", "rows"] = Field(
        "table",
        description="With `rows` it holds those rows of the token embedding that its training texts need, and reads "
        "those of other tokens from its own file of the model when they come; results are equal to the bit. Without a "
        "split it has the whole `table`.",
        examples=["rows"],
    )
    quantization: Literal["none", "nf4", "nf4-double", "int8"] | None = Field(
        None,
        description="How it holds the linear layers of its blocks; without it, as `model.quantization` says. Its local "
        "test runs on them; group scores and `mode: centralized` run as `model.quantization` says.",
        examples=["nf4"],
    )
    local_steps: int | None = Field(
        None,
        ge=1,
        description="Steps that it takes in a round, at most `training.local_steps`, which is how many it takes "
        "without this key. `aggregation.normalise` says how clients of unequal steps are merged.",
        examples=[2],
        json_schema_extra={"unit": "steps"},
    )
    weight: float = Field(
        1.0, gt=0, description="A factor on its weight in its group's merge, beside what `aggregation.weights` gives."
    )
    wire: WireConfig = WireConfig()
    count: int = Field(
        1,
        ge=1,
        description="How many clients of this kind there are, named NAME-1, NAME-2, and so on.",
        examples=[6],
        json_schema_extra={"unit": "clients"},
    )


class AllocationConfig(Section):
    """How ``rank: auto`` shares a device's budgets among layers."""

    r_min: int = Field(1, ge=1, description="Every layer gets at least this rank.")
    r_max: int = Field(64, ge=1, description="No layer gets more than this rank.")
    importance: Literal["gradient", "uniform", "random"] = Field(
        "gradient",
        description="Which layers get more rank: those with the largest gradient of lora_B on the client's own data. "
        "The others are controls that spend the same budget.",
    )
    uplink_seconds: float | None = Field(
        None,
        gt=0,
        description="How long a client's upload of a round may take.",
        examples=[5.0],
        json_schema_extra={"unit": "seconds"},
    )


class ClientSpec(NamedTuple):
    """One client after templates are expanded; ``key`` is where the config speaks of it."""

    name: str
    task_group: str
    rank: int | dict[int, int] | Literal["auto"]
    split_layer: int | Literal["auto"] | None
    device: str | None
    checkpointing: bool
    dtype: Literal["float32", "bfloat16"]
    quantization: Literal["none", "nf4", "nf4-double", "int8"]
    embedding: Literal["table", "rows"]
    weight: float
    learns: Learns
    local_steps: int
    wire: WireConfig
    key: str


class ExperimentConfig(Section):
    """One experiment: data, clients, and how they train together."""

    name: Name = Field(description="The name of the experiment, a part of its run directory's.", examples=["mail"])
    seed: int = Field(0, ge=0, lt=2**64, description="All draws of a run follow from it.")
    data_seed: int | None = Field(
        None,
        ge=0,
        description="The seed of held-out parts, samples and the partition; without it, `seed`. One number for all "
        "runs of a sweep over `seed` gives them the same test parts and the same clients' rows.",
        examples=[0],
    )
    mode: Literal["split-federated", "centralized", "local-only", "federated"] = Field(
        "split-federated", description="Split training, or a baseline on the same data, seeds and parameters."
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$",
        description="Where torch computes; `auto` takes CUDA, then MPS, then the CPU.",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="CPU threads of torch; without it, torch's own choice, which the manifest records. With several, "
        "passes are computed side by side.",
        examples=[2],
    )
    model: ModelConfig
    lora: LoraConfig = LoraConfig()
    server: ServerConfig = ServerConfig()
    devices: dict[Name, DeviceConfig] = Field({}, description="Devices of this experiment, by name.")
    task_groups: dict[Name, TaskGroupConfig] = Field(min_length=1, description="Task groups, by name.")
    clients: dict[Name, ClientConfig] = Field(min_length=1, description="Clients, by name.")
    allocation: AllocationConfig = AllocationConfig()
    holdout: HoldoutConfig = HoldoutConfig()
    partition: PartitionConfig = PartitionConfig()
    training: TrainingConfig = TrainingConfig()
    aggregation: AggregationConfig = AggregationConfig()
    wire: WireConfig = WireConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    clustering: ClusteringConfig | None = Field(
        None, description="Without this section adapters are merged by task group."
    )
    screen: ScreenConfig = ScreenConfig()
    faults: FaultsConfig = FaultsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    audit: AuditConfig | None = Field(
        None, description="Without this section no message is kept, and an audit has nothing to read."
    )
    engine: EngineConfig = EngineConfig()
    trackers: list[str] = Field(
        [],
        description="Programs that are told of every round: `tensorboard`, `wandb`, `mlflow`, `trackio`, or those of "
        "other packages. Each needs an extra of its name. One that fails is left out with a line; the run goes on.",
        examples=[["tensorboard"]],
    )
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

        What asks for anything but names goes by ``client_kinds``, of which a million clients of one entry are one.
        """
        found: list[ClientSpec] = []
        for kind in self.client_kinds():
            alike = kind[1:]
            found += (ClientSpec(name, *alike) for name in self.names_of(kind))
        return found

    def names_of(self, kind: ClientSpec) -> ClientNames:
        """The names of all clients of an entry, of which ``kind`` is the first."""
        return ClientNames(kind.key.removeprefix("clients."), self.entry_of(kind.key).count)

    def entry_of(self, key: str) -> ClientConfig:
        """The entry of ``clients`` at a place in the config (``clients.NAME``), as clients have it in ``key``."""
        return self.clients[key.removeprefix("clients.")]

    def group_sizes(self) -> dict[str, int]:
        """The number of clients of each task group that has any."""
        sizes = Counter[str]()
        for client in self.clients.values():
            sizes[client.task_group] += client.count
        return dict(sizes)

    def client_kinds(self) -> list[ClientSpec]:
        """The first client of each entry of the file; the others of its ``count`` differ in their names alone.

        The learner that pools all clients' data (``centralized``) has the one base, so there dtypes and quantisation
        are the model's. Rows of the embedding are a matter of the split: a client with the whole model has the whole
        table, too.
        """
        specs = []
        for name, client in self.clients.items():
            rank = 0 if client.learns == "frozen" else self.lora.rank if client.rank is None else client.rank
            pooled = self.mode == "centralized"
            dtype = self.model.dtype if client.dtype is None or pooled else client.dtype
            quantization = self.model.quantization if client.quantization is None or pooled else client.quantization
            cut = self.model.split_layer if client.split_layer is None else client.split_layer
            embedding = client.embedding if self.mode == "split-federated" else "table"
            own = (
                client.device,
                client.checkpointing,
                dtype,
                quantization,
                embedding,
                client.weight,
                client.learns,
                self.training.local_steps if client.local_steps is None else client.local_steps,
            )
            first, wire = f"{name}-1" if client.count > 1 else name, client.wire.over(self.wire)
            specs.append(ClientSpec(first, client.task_group, rank, cut, *own, wire, f"clients.{name}"))
        return specs
