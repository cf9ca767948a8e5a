"""The table behind the choice of a split layer: the cost of every cut, computed on the meta device.

Blocks of a model are alike, so shapes are read off a model of one block; memory comes from ``planning.memory``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedConfig

from atlas_cli.config.schema.experiment import Learns, ModelConfig
from atlas_cli.config.schema.training import ZerothOrderConfig
from atlas_cli.config.schema.wire import CodecConfig, WireConfig
from atlas_cli.errors import ConfigError
from atlas_cli.models.adapters.lora import features_of
from atlas_cli.models.adapters.placement import adapted_names, place_ranks
from atlas_cli.models.block_config import shortened
from atlas_cli.models.families import family_of
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.models.files.architectures import built_in
from atlas_cli.models.files.resolve import model_config
from atlas_cli.models.frozen.meta_model import meta_model
from atlas_cli.models.frozen.weight_format import Quantization
from atlas_cli.models.halves.split import client_half
from atlas_cli.planning.devices.cost import (
    Work,
    block_shapes,
    client_step,
    codec_step,
    compute_seconds,
    download_seconds,
    head_step,
    server_step,
    upload_seconds,
)
from atlas_cli.planning.devices.devices import Device
from atlas_cli.planning.devices.step_bytes import StepBytes, step_bytes
from atlas_cli.planning.memory.embedding_rows import ASSUMED_ROWS
from atlas_cli.planning.memory.party_memory import PartyMemory
from atlas_cli.planning.memory.predict import predict_server, predict_split_client
from atlas_cli.planning.memory.step import Step, gets_gradient
from atlas_cli.tasks import build as build_task
from atlas_cli.tasks.contract import BaseTask
from atlas_cli.wire.step_codecs import StepCodecs

# 200,000 tokens of English have 12,650 to 17,083 distinct ones: news and films, tokenizers of GPT-2, BERT and SmolLM2
ROWS = 16_384


@dataclass(frozen=True)
class Setting:
    """The setting of a client's step: the batch (examples, padded tokens of each), the adapters and the weights.

    Attributes:
        rows: the rows of the token embedding that the client holds where ``embedding`` is "rows".
        server_dtype: that of the server half, if it differs from the client's; ``server_quantization``: how it holds
            the linear layers of its blocks.
        family: as ``model.family`` of a config.
        learns: how the client learns; ``probes``: forward passes of a step that learns ``zeroth-order``.
        codec: of activations and gradients, with its default options.
        kept: bytes of what codecs keep of the client's texts; ``server_kept``: of all texts, at the server.
        coding: bytes that the client has alive while codecs work (``planning.memory.encoding``).
    """

    batch: int = 8
    tokens: int = 128
    rank: int = 8
    targets: Literal["auto"] | tuple[str, ...] = "auto"
    dtype: str = "float32"
    quantization: Quantization = "none"
    embedding: Literal["table", "rows"] = "table"
    rows: int = ASSUMED_ROWS
    checkpointing: bool = False
    fused_gelu: bool = True
    server_dtype: str | None = None
    server_quantization: Quantization = "none"
    family: Literal["known", "auto"] = "known"
    learns: Learns = "backprop"
    probes: int = ZerothOrderConfig().probes
    codec: str = "none"
    kept: int = 0
    server_kept: int = 0
    coding: int = 0

    def codecs(self, width: int) -> StepCodecs:
        """The codecs of a step, where hidden states have so many features.

        Raises:
            ConfigError: no codec has this name.
        """
        asked = CodecConfig(codec=self.codec)
        client, server = (getattr(torch, dtype) for dtype in (self.dtype, self.server_dtype or self.dtype))
        kinds = ["activations", *(["gradients"] if self.answered else [])]
        return StepCodecs.of(WireConfig(activations=asked, gradients=asked), width, client, server, 0, kinds)

    def client_step(self) -> Step:
        """The step of the client."""
        return Step(
            self.batch,
            self.tokens,
            dtype=self.dtype,
            quantization=self.quantization,
            embedding_rows=self.rows if self.embedding == "rows" else None,
            checkpointing=self.checkpointing,
            fused_gelu=self.fused_gelu,
        )

    def server_step(self) -> Step:
        """The step of the server."""
        dtype = self.server_dtype or self.dtype
        return Step(
            self.batch,
            self.tokens,
            dtype=dtype,
            quantization=self.server_quantization,
            received_dtype=self.dtype,
            fused_gelu=self.fused_gelu,
            answered=self.answered,
        )

    @property
    def answered(self) -> bool:
        """Whether the client gets a gradient."""
        return gets_gradient(self.learns)


@dataclass(frozen=True)
class StepSeconds:
    """The time of one step of one client while the server is free."""

    compute: float
    upload: float
    server: float
    download: float

    @property
    def total(self) -> float:
        """The sum of the four parts, which follow each other."""
        return self.compute + self.upload + self.server + self.download


@dataclass(frozen=True)
class Cut:
    """The cost of a split layer.

    Attributes:
        layer: the number of blocks on the client.
        parameters: the frozen parameters of the client half; ``adapter_parameters``: the trained ones.
        memory: that of the client; ``server_memory``: that of the server, if one was named.
        work, server_work: FLOPs of one step.
        seconds: the times, if device and link are known.
    """

    layer: int
    parameters: int
    adapter_parameters: int
    memory: PartyMemory
    server_memory: PartyMemory | None
    work: Work
    server_work: Work
    bytes: StepBytes
    seconds: StepSeconds | None


class Shapes:
    """The sizes of a model that the table needs, and the memory of its halves.

    Attributes:
        n_layers: number of blocks.
        names: linear layers of a block that get adapters.

    Raises:
        ConfigError: architecture, targets, rank or length are not possible.
    """

    def __init__(self, hf_config: PreTrainedConfig, setting: Setting) -> None:
        self.config, self.setting = hf_config, setting
        self.family: BaseFamily = family_of(hf_config, setting.family)
        self.n_layers = int(hf_config.num_hidden_layers)
        _check_length(self.family.positions(hf_config), setting.tokens)
        one, _ = meta_model(shortened(hf_config, 1), self.family, torch.float32)
        targets = setting.targets if setting.targets == "auto" else list(setting.targets)
        self.names = adapted_names(one, self.family, targets, "--targets")
        first = place_ranks(one, self.family, setting.rank, range(1), self.names, "--rank")
        self._features = {
            name: features_of(one.get_submodule(path)) for name, path in zip(self.names, first, strict=True)
        }
        two, _ = meta_model(shortened(hf_config, 2), self.family, torch.float32)  # the first block may have less
        self._first, self._two = (_count(client_half(two, self.family, cut)) for cut in (1, 2))

    @property
    def task(self) -> BaseTask:
        """Language modelling of a decoder; two classes of texts of an encoder."""
        return build_task("causal-lm") if self.family.causal else build_task("sequence-classification", ["0", "1"])

    def parameters(self, cut: int) -> int:
        """The number of parameters of the client half."""
        return self._first + (cut - 1) * (self._two - self._first)

    def ranks(self, cut: int) -> dict[str, int]:
        """The ranks of the adapters of blocks ``0 .. cut-1``, by path in the base; none of a frozen client."""
        if self.setting.learns == "frozen":
            return {}
        return {
            f"{self.family.blocks}.{layer}.{name}": self.setting.rank for layer in range(cut) for name in self.names
        }

    def features(self, cut: int) -> dict[str, tuple[int, int]]:
        """(d_in, d_out) of the adapted layers of blocks ``0 .. cut-1``, by path in the base."""
        return {f"{self.family.blocks}.{layer}.{name}": f for layer in range(cut) for name, f in self._features.items()}

    def client(self, cut: int, setting: Setting | None = None) -> PartyMemory:
        """The memory of a client with ``cut`` blocks; default: in the table's setting."""
        # for a single cut the blocks above need not be there
        config = self.config if setting is None else shortened(self.config, cut)
        asked = setting or self.setting
        step = asked.client_step()
        given = self.family, config, cut, self.ranks(cut), self.features(cut), step
        task = self.task if asked.learns == "auxiliary" else None
        memory = predict_split_client(asked.learns, *given, task=task)
        return memory.encoding_steps(asked.coding, asked.learns, memory.cut_buffers // 2).keeping(asked.kept)

    def server(self, cut: int) -> PartyMemory:
        """The memory of a server that trains heads only; decoders have their language-modelling head."""
        head = build_task("causal-lm") if self.family.causal else None
        memory = predict_server(self.family, self.config, cut, {}, {}, self.setting.server_step(), [head])
        return memory.keeping(self.setting.server_kept)


def config_of(model_name: str) -> Any:
    """Load the Hugging Face config of a model; known architectures need no network.

    Raises:
        ResourceError: the model cannot be found.
    """
    known = built_in(model_name)
    return known if known is not None else model_config(ModelConfig.model_validate({"name": model_name}))[0]


def cut_table(shapes: Shapes, device: Device | None, server: Device | None, measure_server: bool) -> list[Cut]:
    """The table with a row for each split layer, from 1 to all layers.

    Args:
        device: the client's; if it and ``server`` are known, rows have seconds.
        measure_server: whether the server's memory matters.
    """
    s = shapes.setting
    causal = shapes.family.causal
    frozen, answered = s.learns == "frozen", s.answered
    texts, task = [s.tokens] * s.batch, shapes.task
    labels = task.blank_labels_of_texts(texts) if frozen else task.blank_labels(s.batch, s.tokens)
    d, vocabulary = int(shapes.config.hidden_size), int(shapes.config.vocab_size)
    codecs, step = s.codecs(d), (shapes.config, s.batch, s.tokens, s.dtype)
    sent = step_bytes(*step, labels=labels, codecs=codecs, frozen=frozen, answered=answered)
    encoding, decoding = codec_step(codecs, s.batch, s.tokens)
    probes = s.probes if s.learns == "zeroth-order" else None
    output = head_step(build_task("causal-lm"), d, vocabulary, s.batch, s.tokens) if causal else Work(0, 0)
    blocks = block_shapes(shapes.family, shapes.config)
    rows = []
    for cut in range(1, shapes.n_layers + 1):
        ranks, features = shapes.ranks(cut), shapes.features(cut)
        work = client_step(blocks, cut, ranks, s.batch, s.tokens, checkpointing=s.checkpointing, probes=probes)
        work += encoding
        server_work = server_step(blocks, cut, shapes.n_layers, {}, s.batch, s.tokens, to_cut=answered) + output
        server_work += decoding
        if s.learns == "auxiliary":
            work += head_step(shapes.task, d, vocabulary, s.batch, s.tokens)
        rows.append(
            Cut(
                layer=cut,
                parameters=shapes.parameters(cut),
                adapter_parameters=sum(rank * sum(features[path]) for path, rank in ranks.items()),
                memory=shapes.client(cut),
                server_memory=shapes.server(cut) if measure_server else None,
                work=work,
                server_work=server_work,
                bytes=sent,
                seconds=_seconds(work, server_work, sent, device, server),
            )
        )
    return rows


def _seconds(
    work: Work, server_work: Work, sent: StepBytes, device: Device | None, server: Device | None
) -> StepSeconds | None:
    if device is None or device.lacks("compute", "uplink", "downlink") or server is None or server.lacks("compute"):
        return None
    return StepSeconds(
        compute=compute_seconds(work.total, device),
        upload=upload_seconds(sent.up, sent.messages_up, device, server),
        server=compute_seconds(server_work.total, server),
        download=download_seconds(sent.down, sent.messages_down, device, server),
    )


def _check_length(positions: int | None, tokens: int) -> None:
    if positions is not None and tokens > positions:
        raise ConfigError(
            f"{tokens} tokens are more than the model's {positions} positions; set it to {positions} or less",
            key="--max-length",
        )


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
