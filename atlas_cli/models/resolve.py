"""From ``model.name`` to where the model is: a local folder, a GGUF file, a packaged model, or the Hugging Face hub."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from transformers import AutoConfig, PreTrainedConfig

from atlas_cli.config.schema import ModelConfig
from atlas_cli.data import catalog
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.models.architectures import built_in


@dataclass(frozen=True)
class Source:
    """Where weights or tokenizer files are.

    Attributes:
        path: what ``from_pretrained`` takes: a folder or a hub id.
        kind: "folder", "gguf", "packaged" or "hub".
        gguf_file: file name within ``path`` for kind "gguf".
        options: further keyword arguments of ``from_pretrained``.
    """

    path: str
    kind: str
    gguf_file: str | None
    options: dict[str, Any]


def locate(name: str, revision: str | None = None, *, key: str = "model.name") -> Source:
    """Find a model by name, fetching a packaged one into the cache.

    Raises:
        ResourceError: a path that does not exist, or the hub cannot be reached and nothing is cached.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file() and not (path / "tokenizer_config.json").is_file():
            raise ResourceError(
                f"{key}: folder {name} has no config.json; expected a folder that save_pretrained wrote"
            )
        return Source(str(path), "folder", None, {})
    if name.endswith(".gguf"):
        if not path.is_file():
            raise ResourceError(f"{key}: GGUF file {name} does not exist; check the path")
        return Source(str(path.parent), "gguf", path.name, {})
    if name in catalog.model_names():
        packaged = catalog.model_path(name)
        if packaged.suffix == ".gguf":
            return Source(str(packaged.parent), "gguf", packaged.name, {})
        return Source(str(packaged), "packaged", None, {})
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ResourceError(f"{key}: folder {name} does not exist; check the path, or give a hub id such as org/model")
    options: dict[str, Any] = {"revision": revision} if revision else {}
    if not hub_reachable():
        options["local_files_only"] = True
    return Source(name, "hub", None, options)


@cache
def hub_reachable() -> bool:
    """Whether the hub's host answers.

    Asked once, because the hub library retries for half a minute when it does not.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True
    url = urlsplit(constants.ENDPOINT)
    try:
        with socket.create_connection((url.hostname or "", url.port or 443), timeout=5):
            return True
    except OSError:
        return False


def model_config(model: ModelConfig) -> tuple[PreTrainedConfig, Source | None, str]:
    """The Hugging Face config, where weights are (None: random), and how they are initialised, in words.

    Raises:
        ResourceError: neither the model nor a built-in architecture of that name can be found.
        ConfigError: the folder asks for code of its own, or ``model.config`` names an unknown key.
    """
    try:
        source = locate(model.name, model.revision)
        config = _read_config(source)
    except (ResourceError, OSError, ValueError) as error:
        known = built_in(model.name)
        if known is None or model.init == "pretrained":
            raise _not_found(model, error, known is not None) from None
        why = "as configured" if model.init == "random" else "weights could not be reached"
        return _with_changes(known, model), None, f"random ({why})"
    if model.init == "random":
        return _with_changes(config, model), None, "random (as configured)"
    return config, source, "pretrained"


def _read_config(source: Source) -> PreTrainedConfig:
    extra = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    config = AutoConfig.from_pretrained(source.path, trust_remote_code=False, **extra, **source.options)
    if getattr(config, "auto_map", None) and type(config).__module__.split(".")[0] != "transformers":
        raise ConfigError("the model asks for code of its own, which atlas never runs", key="model.name")
    return config


def _with_changes(config: PreTrainedConfig, model: ModelConfig) -> PreTrainedConfig:
    for name, value in model.config.items():
        if not hasattr(config, name):
            raise ConfigError(f"{type(config).__name__} has no {name!r}", key=f"model.config.{name}")
        setattr(config, name, value)
    try:
        # built anew, so that what depends on a changed value (head size, layer types) follows it
        return type(config)(**{**_given(config), **model.config})
    except Exception as error:  # config classes validate with exceptions of many kinds
        raise ConfigError(f"these values do not fit together: {error}", key="model.config") from None


def _given(config: PreTrainedConfig) -> dict[str, Any]:
    derived = {"layer_types", "head_dim", "transformers_version", "model_type", "architectures", "dtype"}
    return {name: value for name, value in config.to_diff_dict().items() if name not in derived}


def _not_found(model: ModelConfig, error: Exception, known: bool) -> Exception:
    if isinstance(error, ResourceError | ConfigError):
        return error
    first = str(error).strip().splitlines()[0]
    if "trust_remote_code" in str(error):
        return ConfigError("the model asks for code of its own, which atlas never runs", key="model.name")
    hint = "give a local folder or a packaged model (atlas models)"
    if known:
        hint += ", or model.init: random, or auto"
    reach = "" if hub_reachable() else " (the hub cannot be reached and it is not in the hub cache)"
    return ResourceError(f"model.name: {model.name!r} was not found{reach}; {hint} [{first}]")
