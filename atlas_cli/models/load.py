"""Load a model once: one frozen base that the server and all in-process clients share."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from atlas_cli.config.schema import ModelConfig
from atlas_cli.data.packages import cache_dir
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.models.families import Family, family_of
from atlas_cli.models.resolve import Source, locate, model_config
from atlas_cli.runs.hashing import sha256_file, sha256_tensors
from atlas_cli.seeding import forked


@dataclass(frozen=True)
class FrozenBase:
    """A frozen base model, in evaluation mode, and what belongs to it.

    Attributes:
        model: the base model without a head (``GPT2Model``, ``LlamaModel``, ``BertModel``, ...).
        lm_head: output embedding of a causal model (tied weights stay tied), else None.
        family: where its parts are.
        name: ``model.name``; ``init``: how weights were initialised, in words; ``sha256``: of all weights.
    """

    model: nn.Module
    lm_head: nn.Module | None
    family: Family
    name: str
    init: str
    sha256: str

    @property
    def config(self) -> Any:
        """The Hugging Face config."""
        return self.model.config

    @property
    def hidden_size(self) -> int:
        """Elements of one token's activation at the cut."""
        return int(self.config.hidden_size)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self.config.num_hidden_layers)

    def check_cut(self, split_layer: int | None) -> int:
        """The split layer, the middle of the model where None.

        Raises:
            ConfigError: out of range.
        """
        return check_cut(split_layer, self.n_layers)


def check_cut(split_layer: int | None, n_layers: int) -> int:
    """The number of blocks on the client: the middle of the model where None (gpt2: 6, bert: 6, llama: 16).

    Raises:
        ConfigError: not within 1 .. n_layers.
    """
    cut = max(1, n_layers // 2) if split_layer is None else split_layer
    if not 1 <= cut <= n_layers:
        raise ConfigError(
            f"{cut} is out of range; the model has {n_layers} layers: 1 to {n_layers}", key="model.split_layer"
        )
    return cut


@cache
def shared_base(name: str, init: str, device: torch.device, seed: int) -> FrozenBase:
    """One base a process for calls that name the same model."""
    return load_base(ModelConfig.model_validate({"name": name, "init": init}), seed=seed, device=device)


def load_base(model: ModelConfig, *, seed: int = 0, device: str | torch.device = "cpu") -> FrozenBase:
    """Load (or initialise at random from ``seed``) the base of an experiment.

    Raises:
        ResourceError: it cannot be found or read.
        ConfigError: its architecture is not supported.
    """
    config, source, init = model_config(model)
    family = family_of(config.model_type)
    auto = AutoModelForCausalLM if family.causal else AutoModel
    dtype = getattr(torch, model.dtype)
    if source is None:
        with forked(seed, "model"):
            whole = auto.from_config(config, dtype=dtype)
    else:
        whole = _from_source(auto, source, config, dtype, key="model.name")
    return as_base(whole.to(device), family, model.name, init)


def as_base(whole: Any, family: Family, name: str, init: str) -> FrozenBase:
    """Freeze a Hugging Face model (with or without its causal LM head)."""
    whole.requires_grad_(False).eval()
    lm_head = whole.get_output_embeddings() if family.causal else None
    base = whole.base_model if family.causal else whole
    for path in family.unused:
        setattr(base, path, None)
    return FrozenBase(base, lm_head, family, name, init, _sha256(base, lm_head))


def current_sha256(base: FrozenBase) -> str:
    """Hash of the weights as they are now; equal to ``base.sha256`` as long as the base is frozen."""
    return _sha256(base.model, base.lm_head)


def _sha256(model: nn.Module, lm_head: nn.Module | None) -> str:
    output = {} if lm_head is None else {f"lm_head.{name}": t for name, t in lm_head.state_dict().items()}
    return sha256_tensors({**model.state_dict(), **output})


def load_tokenizer(model: ModelConfig) -> Any:
    """The model's tokenizer, padding on the right.

    Raises:
        ResourceError: there is none; says which key to set.
    """
    name = model.tokenizer or model.name
    key = "model.tokenizer" if model.tokenizer else "model.name"
    source = locate(name, model.revision if name == model.name else None, key=key)
    folder = _converted(source) if source.gguf_file else Path(source.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, **source.options)
    except Exception as error:  # tokenizers raise exceptions of many kinds
        reason = str(error).strip().splitlines()[0]
        raise ResourceError(
            f"{key}: no tokenizer for {name!r}; set model.tokenizer to a folder, hub id or packaged name "
            f"(gpt2-bpe for GPT-2) [{reason}]"
        ) from None
    tokenizer.padding_side = "right"
    return tokenizer


def _from_source(auto: Any, source: Source, config: PreTrainedConfig, dtype: torch.dtype, key: str) -> nn.Module:
    folder = str(_converted(source)) if source.gguf_file else source.path
    try:
        return auto.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, use_safetensors=True, **source.options
        )
    except OSError as error:
        raise ResourceError(
            f"{key}: weights of {source.path} cannot be read: {str(error).strip().splitlines()[0]} "
            "(atlas reads safetensors only)"
        ) from None
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"weights do not fit the architecture: {str(error).strip().splitlines()[0]}", key=key
        ) from None


def _converted(source: Source) -> Path:
    """A GGUF file as a folder of safetensors, converted once and kept in the cache under the file's hash."""
    assert source.gguf_file is not None
    file = Path(source.path) / source.gguf_file
    target = cache_dir() / "converted" / f"{file.stem}-{sha256_file(file)[:16]}"
    if (target / "config.json").is_file():
        return target
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise ResourceError(
            f"reading {file.name} needs the gguf package: pip install -c constraints.txt -e '.[gguf]'"
        ) from None
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        place = Path(scratch) / "model"
        whole = AutoModelForCausalLM.from_pretrained(source.path, gguf_file=source.gguf_file, dtype=torch.float32)
        # a GGUF load leaves a quantizer behind that save_pretrained refuses to write
        whole.hf_quantizer = None
        if hasattr(whole.config, "quantization_config"):
            del whole.config.quantization_config
        whole.save_pretrained(place)
        AutoTokenizer.from_pretrained(source.path, gguf_file=source.gguf_file).save_pretrained(place)
        if not target.exists():
            os.replace(place, target)
    return target


transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
