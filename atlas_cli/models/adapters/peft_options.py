"""adapter_config.json of a LoRA adapter: every option is followed as PEFT does, has no effect here, or is refused.

A test compares the tables with the fields of ``peft.LoraConfig``, so that none is forgotten.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from atlas_cli.errors import ResourceError
from atlas_cli.models.adapters.lora import scale_of

Names = str | Sequence[str]  # one regular expression for whole names, or ends of names


class _Kind(NamedTuple):
    words: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(float(value))
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _are_layers(value: Any) -> bool:
    return all(type(each) is int for each in (value if isinstance(value, list) else [value]))


def _is_pattern(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(fits(each) for each in value.values())


def _or_null(kind: _Kind) -> _Kind:
    return _Kind(f"{kind.words}, or null", lambda value: value is None or kind.fits(value))


_BOOL = _Kind("true or false", lambda value: type(value) is bool)
_TEXT = _Kind("text", lambda value: isinstance(value, str))
_RANK = _Kind("a whole number from 1", lambda value: type(value) is int and value >= 1)
_NUMBER = _Kind("a finite number that fits into a float", _is_number)
_NAMES = _Kind("a list of names, or text", lambda value: isinstance(value, str) or _are_texts(value))
_ANYTHING = _Kind("anything", lambda value: True)

# Followed: what PEFT does when it loads the folder is done here.
_FOLLOWED = {
    "r": _RANK,
    "rank_pattern": _Kind("ranks by name", lambda value: _is_pattern(value, _RANK.fits)),
    "lora_alpha": _NUMBER,
    "alpha_pattern": _Kind("finite numbers by name", lambda value: _is_pattern(value, _is_number)),
    "use_rslora": _BOOL,
    "target_modules": _NAMES,
    "exclude_modules": _or_null(_NAMES),
    "layers_to_transform": _or_null(_Kind("layer numbers", _are_layers)),
    "layers_pattern": _or_null(_NAMES),
}

# Without effect on what the factors are worth, with the reason.
_WITHOUT_EFFECT = {
    "task_type": _or_null(_TEXT),  # the class around the model; names of tensors say which that was
    "auto_mapping": _ANYTHING,  # the same, by the name of the class
    "peft_version": _or_null(_TEXT),
    "base_model_name_or_path": _or_null(_TEXT),  # a name; a base is told by the hash of its weights
    "revision": _or_null(_TEXT),
    "inference_mode": _BOOL,  # whether PEFT would train it
    "lora_dropout": _NUMBER,  # of its training; this run's is lora.dropout
    "fan_in_fan_out": _BOOL,  # PEFT itself puts it right by the type of the layer
    "runtime_config": _ANYTHING,  # PEFT does not read it
    "megatron_core": _or_null(_TEXT),  # for megatron_config alone
    "qalora_group_size": _ANYTHING,  # for use_qalora alone
    "ensure_weight_tying": _BOOL,  # of embeddings, which no adapter may change here
    # for values of init_lora_weights, which is checked
    "loftq_config": _ANYTHING,
    "eva_config": _ANYTHING,
    "corda_config": _ANYTHING,
    "lora_ga_config": _ANYTHING,
}

# Another computation than W + s B A, or trained weights besides: refused unless it is off.
_OFF: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
    "layer_replication": (None,),
    "use_dora": (False,),
    "lora_bias": (False,),
    "use_qalora": (False,),
    "alora_invocation_tokens": (None,),
    "megatron_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
    "use_bdlora": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    # of the first versions of PEFT
    "enable_lora": (None,),
    "merge_weights": (False,),
}

# How to make an adapter without an option, where PEFT sets it by itself.
_WITHOUT = {
    "modules_to_save": "PEFT saves no head with task_type FEATURE_EXTRACTION, and atlas then starts with a new one",
}

# Initial values that leave the base as it is. All others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) take a part of its
# weights away, so that their factors are right on the changed base alone.
_BASE_STAYS = ("gaussian", "eva", "orthogonal", "mica")


@dataclass(frozen=True)
class PeftOptions:
    """The options in adapter_config.json, with PEFT's defaults.

    ``file`` is for messages; all other fields have the names in the file.
    """

    file: Path
    target_modules: Names
    r: int = 8
    rank_pattern: Mapping[str, int] | None = None
    lora_alpha: float = 8
    alpha_pattern: Mapping[str, float] | None = None
    use_rslora: bool = False
    exclude_modules: Names | None = None
    layers_to_transform: int | Sequence[int] | None = None
    layers_pattern: Names | None = None

    def rank(self, layer: str) -> int:
        """The rank r of a layer, given its name in PEFT's model."""
        return _first(self.rank_pattern, layer, self.r)

    def scale(self, layer: str) -> float:
        """The scale s in s B A of a layer, given its name in PEFT's model."""
        return scale_of(self.rank(layer), float(_first(self.alpha_pattern, layer, self.lora_alpha)), self.use_rslora)

    def adapts(self, layer: str) -> bool:
        """Whether PEFT gives a linear layer of this name an adapter."""
        wanted = self.target_modules
        if self.exclude_modules and _named(self.exclude_modules, layer):
            return False
        if isinstance(wanted, str):
            return wanted.lower() == "all-linear" or _named(wanted, layer)
        return layer in wanted or (_named(wanted, layer) and self._of_chosen_block(layer))

    def _of_chosen_block(self, layer: str) -> bool:
        chosen = self.layers_to_transform
        if chosen is None or chosen == []:
            return True
        patterns = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern
        expressions = [_block(each) for each in patterns or ()] or [r".*?\.[^.]*\.(?P<idx>\d+)\."]
        match = next((found for each in expressions if (found := re.match(each, layer))), None)
        return match is not None and int(match["idx"]) in ([chosen] if isinstance(chosen, int) else chosen)


def read_options(file: Path) -> PeftOptions:
    """Read and check adapter_config.json.

    Raises:
        ResourceError: not of a LoRA adapter, damaged, or with an option that atlas does not follow; names it.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8"), parse_int=_whole_number)
    except (OSError, ValueError, RecursionError) as error:
        raise ResourceError(f"{file.parent} is not a PEFT adapter that can be read: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise ResourceError(f"{file.parent}: expected a LoRA adapter, found {kind!r:.60}")
    for name, value in config.items():
        _check(file, str(name), value)
    if config.get("target_modules") is None:
        raise ResourceError(f"{file}: target_modules is missing; name the layers that are adapted")
    options = PeftOptions(file, **{name: value for name, value in config.items() if name in _FOLLOWED})
    _check_together(options)
    return options


def _whole_number(digits: str) -> int:
    if len(digits) > 400:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _check(file: Path, name: str, value: Any) -> None:
    kind = _FOLLOWED.get(name) or _WITHOUT_EFFECT.get(name)
    if kind is not None:
        if not kind.fits(value):
            raise ResourceError(f"{file}: {name}: expected {kind.words}, got {_shown(value)}")
    elif name == "init_lora_weights":
        _check_initialisation(file, value)
    elif name in _OFF:
        if not any(type(value) is type(off) and value == off for off in _OFF[name]):
            raise ResourceError(
                f"{file}: {name}: {_shown(value)} is more than LoRA factors of linear layers, which is all that atlas "
                f"can start from; {_WITHOUT.get(name, 'make the adapter without it')}"
            )
    elif name != "peft_type":
        raise ResourceError(
            f"{file}: {name:.60} is not an option that atlas knows; remove it if the adapter is the same without it"
        )


def _check_initialisation(file: Path, value: Any) -> None:
    if type(value) is bool or (isinstance(value, str) and value.lower() in _BASE_STAYS):
        return
    raise ResourceError(
        f"{file}: init_lora_weights: {_shown(value)} changes the weights of the base; convert the adapter with PEFT's "
        "save_pretrained(path_initial_model_for_weight_conversion=...)"
    )


def _check_together(options: PeftOptions) -> None:
    chosen, pattern, wanted = options.layers_to_transform, options.layers_pattern, options.target_modules
    if isinstance(wanted, str) and not (chosen is None and pattern is None):
        raise ResourceError(f"{options.file}: layers_to_transform needs target_modules as a list")
    if pattern and chosen is None:
        raise ResourceError(f"{options.file}: layers_pattern needs layers_to_transform")
    patterns = [pattern] if isinstance(pattern, str) else pattern or []
    for name in (each for each in (wanted, options.exclude_modules) if isinstance(each, str)):
        _check_expression(options.file, name, name)
    for name in (*(options.rank_pattern or ()), *(options.alpha_pattern or ())):
        _check_expression(options.file, name, _end(name))
    for name in patterns:
        _check_expression(options.file, name, _block(name))


def _check_expression(file: Path, written: str, used: str) -> None:
    """Check that a regular expression from an untrusted file is valid and fast to match."""
    try:
        re.compile(used)
    except (re.error, OverflowError, RecursionError) as error:
        raise ResourceError(f"{file}: {written!r:.60} is not a regular expression: {error}") from None
    # in the worst case a repeat tries every length of a name, an alternative doubles the work, and nesting has no bound
    repeats, choices = len(re.findall(r"[*+{]", written)), len(re.findall(r"(?<!\()\?|\|", written))
    if re.search(r"\)[*+{?]", written) or 6 * repeats + choices > 20:
        raise ResourceError(f"{file}: {written!r:.60} may take for ever to compare; list the names of the layers")


def _first(pattern: Mapping[str, Any] | None, layer: str, default: Any) -> Any:
    """As PEFT looks it up: the first pattern that is an end of the layer's name, as a regular expression."""
    return next((value for key, value in (pattern or {}).items() if re.match(_end(key), layer)), default)


def _end(name: str) -> str:
    return rf"(.*\.)?({name})$"


def _block(name: str) -> str:
    return rf"(?:^|.*?\.){name}\.(?P<idx>\d+)\."


def _named(names: Names, layer: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, layer) is not None
    return any(layer == name or layer.endswith(f".{name}") for name in names)


def _shown(value: Any) -> str:
    return json.dumps(value)[:80]
