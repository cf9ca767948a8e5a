"""Load a model once: one frozen base that the server and all in-process clients share."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from atlas_cli.config.schema.experiment import ModelConfig
from atlas_cli.errors import AtlasError, ConfigError, ResourceError
from atlas_cli.hashing import sha256_tensors
from atlas_cli.models.families import family_of
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.models.files.config_options import refuse_options
from atlas_cli.models.files.resolve import locate, model_config
from atlas_cli.models.files.source import Source, reason
from atlas_cli.models.files.tokenizer_file import as_the_file_has_it, require_vocabulary_files
from atlas_cli.models.files.weight_files import left_out, not_finite, weight_names
from atlas_cli.models.frozen.embed_scale import keep_exact_scale
from atlas_cli.models.frozen.gelu import fuse_gelu
from atlas_cli.models.frozen.output_embedding import output_embedding
from atlas_cli.models.frozen.rotary import keep_initial_frequencies
from atlas_cli.models.frozen.weight_format import Quantization, WeightFormat
from atlas_cli.models.halves.split import client_half, client_part, server_half
from atlas_cli.seeding import forked


@dataclass(frozen=True)
class FrozenBase:
    """A frozen base model in evaluation mode, with its family and facts.

    Attributes:
        model: the base model without a head (``GPT2Model``, ``LlamaModel``, ``BertModel``, ...).
        lm_head: output embedding of a causal model (tied weights stay tied), else None.
        family: where its parts are.
        name: ``model.name``; ``init``: how weights were initialised, in words; ``sha256``: of all weights.
        fused_gelu: how many activation functions were replaced by their fused form.
        left_out: tensors of the files that belong to a head, which atlas replaces by its own.
        quantization: of the linear layers of the blocks; ``rounding``: the largest difference of a quantised weight
            from the source's; ``held_sha256``: of all tensors as they are held, where any of them are quantised.
        embedding: the token embedding's whole table, or rows of it (``models.frozen.row_embedding``).
    """

    model: nn.Module
    lm_head: nn.Module | None
    family: BaseFamily
    name: str
    init: str
    sha256: str
    fused_gelu: int = 0
    left_out: tuple[str, ...] = ()
    quantization: Quantization = "none"
    rounding: float = 0.0
    held_sha256: str | None = None
    embedding: Literal["table", "rows"] = "table"
    _views: dict[tuple[int, int | None], nn.Module] = field(default_factory=dict, init=False, repr=False, compare=False)

    def client_half(self, cut: int) -> nn.Module:
        """Blocks ``0 .. cut-1`` with the input side: one view for all clients that are cut there."""
        return self.between(0, cut)

    def server_half(self, cut: int) -> nn.Module:
        """Blocks ``cut ..`` with the final norm, one view."""
        return self.between(cut, None)

    def between(self, first: int, last: int | None) -> nn.Module:
        """Blocks ``first .. last-1``, one view; to the end, with the final norm, where ``last`` is None."""
        if (first, last) not in self._views:
            base, family = self.model, self.family
            if last is None:
                view = server_half(base, family, first)
            else:
                view = client_part(base, family, first, last) if first else client_half(base, family, last)
            self._views[first, last] = view
        return self._views[first, last]

    @property
    def config(self) -> Any:
        """The Hugging Face config."""
        return self.model.config

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights, read from the input embedding."""
        return next(self.model.parameters()).dtype

    @property
    def format(self) -> WeightFormat:
        """How the weights are held."""
        return WeightFormat(str(self.dtype).removeprefix("torch."), self.quantization, self.embedding)

    @property
    def hidden_size(self) -> int:
        """The number of elements of a token's activation at the cut."""
        return int(self.config.hidden_size)

    @property
    def n_layers(self) -> int:
        """The number of blocks."""
        return int(self.config.num_hidden_layers)

    def check_cut(self, split_layer: int | None) -> int:
        """The split layer, the middle of the model where None.

        Raises:
            ConfigError: out of range.
        """
        return check_cut(split_layer, self.n_layers)


def check_cut(split_layer: int | None, n_layers: int, key: str = "model.split_layer") -> int:
    """The number of blocks on the client: the middle of the model where None (gpt2: 6, bert: 6, llama: 16).

    Raises:
        ConfigError: not within 1 .. n_layers.
    """
    cut = max(1, n_layers // 2) if split_layer is None else split_layer
    if not 1 <= cut <= n_layers:
        raise ConfigError(f"{cut} is out of range; the model has {n_layers} layers: 1 to {n_layers}", key=key)
    return cut


@cache
def shared_base(name: str, init: str, device: torch.device, seed: int) -> FrozenBase:
    """The base of a model, which all calls in a process share."""
    return load_base(ModelConfig.model_validate({"name": name, "init": init}), seed=seed, device=device)


def load_base(model: ModelConfig, *, seed: int = 0, device: str | torch.device = "cpu") -> FrozenBase:
    """Load (or initialise at random from ``seed``) the base of an experiment.

    Raises:
        ResourceError: it cannot be found or read.
        ConfigError: its architecture is not supported.
    """
    config, source, init = model_config(model)
    family = family_of(config, model.family)
    auto = AutoModelForCausalLM if family.causal else AutoModel
    dtype = getattr(torch, model.dtype)
    unread: tuple[str, ...] = ()
    if source is None:
        with forked(seed, "model"):
            whole = from_config(auto, config, dtype)
    else:
        whole, unread = _from_source(auto, config, source, family, dtype)
    fused = fuse_gelu(whole) if model.fused_gelu else 0
    return as_base(whole.to(device), family, model.name, init, fused, unread)


def require_weights(model: ModelConfig) -> None:
    """Check the files of a local model's weights by their names and headers; they are not loaded.

    Raises:
        ResourceError, ConfigError: as ``load_base`` for files that it would not read.
    """
    config, source, _ = model_config(model)
    if source is None or source.kind not in ("folder", "packaged"):
        return
    if not _weight_names(source, family_of(config, model.family)):
        raise ResourceError(f"model.name: folder {source.path} has no model.safetensors (atlas reads safetensors only)")


def _weight_names(source: Source, family: BaseFamily) -> dict[str, Path]:
    try:
        return weight_names(source, family)
    except SafetensorError as error:
        raise ResourceError(f"model.name: weights of {source.path} cannot be read: {reason(error)}") from None


def from_config(auto: Any, config: PreTrainedConfig, dtype: torch.dtype) -> nn.Module:
    """Build a model with new random weights.

    Raises:
        ConfigError: sizes that do not fit together, or not into the memory.
    """
    try:
        model: nn.Module = auto.from_config(config, dtype=dtype)
        keep_initial_frequencies(model)
        keep_exact_scale(model)
    except Exception as error:  # layers answer values that do not fit with exceptions of many kinds
        raise ConfigError(f"the model cannot be built: {reason(error)}", key="model.config") from None
    return model


def as_base(
    whole: Any, family: BaseFamily, name: str, init: str, fused_gelu: int = 0, left_out: tuple[str, ...] = ()
) -> FrozenBase:
    """Freeze a Hugging Face model (with or without its causal LM head)."""
    whole.requires_grad_(False).eval()
    lm_head = output_embedding(whole) if family.causal else None
    base = whole.base_model if family.causal else whole
    for path in family.unused:
        setattr(base, path, None)
    _require_finite(base, lm_head, name)
    return FrozenBase(base, lm_head, family, name, init, _sha256(base, lm_head), fused_gelu, left_out)


def _require_finite(model: nn.Module, lm_head: nn.Module | None, name: str) -> None:
    if wrong := not_finite(_weights(model, lm_head)):
        raise ResourceError(
            f"model.name: weights of {name} are damaged: {wrong} holds values that are not finite numbers; fetch or "
            "save them again"
        )


def current_sha256(base: FrozenBase) -> str:
    """Hash the current weights; a base that was loaded has its ``sha256`` as long as it is frozen."""
    return _sha256(base.model, base.lm_head)


def _sha256(model: nn.Module, lm_head: nn.Module | None) -> str:
    return sha256_tensors(_weights(model, lm_head))


def _weights(model: nn.Module, lm_head: nn.Module | None) -> dict[str, Tensor]:
    output = {} if lm_head is None else {f"lm_head.{name}": t for name, t in lm_head.state_dict().items()}
    return {**model.state_dict(), **output}


def load_tokenizer(model: ModelConfig) -> Any:
    """The model's tokenizer, padding on the right.

    Raises:
        ResourceError: there is none; says which key to set.
    """
    name = model.tokenizer or model.name
    key = "model.tokenizer" if model.tokenizer else "model.name"
    source = locate(name, model.revision if name == model.name else None, key=key)
    source = source.converted()
    refuse_options(source.json("tokenizer_config.json"), f"{source.path}/tokenizer_config.json: ", key)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.path, trust_remote_code=False, **source.options)
        require_vocabulary_files(tokenizer, source)
        tokenizer = as_the_file_has_it(tokenizer, source)
    except Exception as error:  # tokenizers raise exceptions of many kinds
        raise ResourceError(
            f"{key}: no tokenizer for {name!r}; set model.tokenizer to a folder, hub id or packaged name "
            f"(gpt2-bpe for GPT-2) [{reason(error)}]"
        ) from None
    tokenizer.padding_side = "right"
    return tokenizer


def _from_source(
    auto: Any, config: PreTrainedConfig, source: Source, family: BaseFamily, dtype: torch.dtype
) -> tuple[nn.Module, tuple[str, ...]]:
    """The model with the weights of its files, and the names of those that it has no place for and does not need."""
    source = source.converted()
    try:
        files = _weight_names(source, family)
        whole, found = auto.from_pretrained(
            source.path,
            config=config,
            generation_config=GenerationConfig(),  # nothing is generated, so the model's file of that is not read
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **source.options,
        )
    except (OSError, SafetensorError) as error:
        raise ResourceError(
            f"model.name: weights of {source.path} cannot be read: {reason(error)} (atlas reads safetensors only)"
        ) from None
    except AtlasError:
        raise
    except Exception as error:  # layers answer values that do not fit with exceptions of many kinds
        raise ConfigError(f"weights do not fit the architecture: {reason(error)}", key="model.name") from None
    if found["mismatched_keys"]:
        name, held, wanted = min(found["mismatched_keys"])
        raise ConfigError(
            f"weights do not fit the architecture: {name} is {tuple(held)}, and config.json asks for {tuple(wanted)}",
            key="model.name",
        )
    keep_initial_frequencies(whole)
    keep_exact_scale(whole)
    # transformers fills what is missing with random numbers and goes on
    missing = sorted(name for name in found["missing_keys"] if not name.startswith(family.unused))
    inner = f"{whole.base_model_prefix}."
    if family.causal and missing and not any(name.startswith(inner) for name in missing):
        # weights of the base alone: all tasks but language modelling can do with them
        whole.set_output_embeddings(None)
    elif missing:
        raise ResourceError(
            f"model.name: weights of {source.path} are incomplete: {missing[0]} is missing"
            + (f", and {len(missing) - 1} more" if missing[1:] else "")
        )
    return whole, left_out(source.path, whole, family, files, found["unexpected_keys"])


transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
# for a hub model without safetensors, transformers asks a service to convert it and takes what that proposes
os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
