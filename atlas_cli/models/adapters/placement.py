"""Which layers get an adapter of which rank: from ``rank: 8`` or ``rank: {0: 8, 1: 16}`` to ``{layer path: rank}``."""

from __future__ import annotations

from torch import nn
from transformers.pytorch_utils import Conv1D

from atlas_cli.errors import ConfigError
from atlas_cli.models.adapters.lora import LORA, AdapterForm, features_of
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.models.halves.split import blocks_of
from atlas_cli.suggest import did_you_mean


def adapted_names(
    base: nn.Module, family: BaseFamily, targets: str | list[str], key: str = "lora.targets"
) -> list[str]:
    """The paths within a block of the linear layers with adapters; ``targets`` are ends of such paths, or "auto".

    Raises:
        ConfigError: no target, or one that no linear layer of a block matches.
    """
    if not targets:
        raise ConfigError("names no layer; give ends of layer names, or auto", key=key)
    linear = [n for n, m in blocks_of(base, family)[0].named_modules() if isinstance(m, nn.Linear | Conv1D)]
    wanted = family.targets if isinstance(targets, str) else targets
    found = []
    for target in wanted:
        matches = [name for name in linear if name == target or name.endswith(f".{target}")]
        if not matches:
            raise ConfigError(f"no linear layer of a block is named {target!r}{did_you_mean(target, linear)}", key=key)
        found += matches
    return [name for name in linear if name in found]


def place_ranks(
    base: nn.Module,
    family: BaseFamily,
    rank: int | dict[int, int],
    layers: range,
    names: list[str],
    key: str = "lora.rank",
    form: AdapterForm = LORA,
) -> dict[str, int]:
    """The ranks by path of the base, for the blocks in ``layers`` and in their order; or how many components of another
    form of adapter they are worth.

    Raises:
        ConfigError: a layer outside ``layers``, or a rank that a layer is too small for.
    """
    by_layer = rank if isinstance(rank, dict) else dict.fromkeys(layers, rank)
    outside = sorted(set(by_layer) - set(layers))
    if outside:
        raise ConfigError(
            f"layer {outside[0]} is not on the client half, which has layers 0 to {len(layers) - 1}; "
            "move it below model.split_layer or raise that",
            key=key,
        )
    ranks = {}
    for layer in sorted(by_layer):
        for name in names:
            path = f"{family.blocks}.{layer}.{name}"
            features = features_of(base.get_submodule(path))
            if by_layer[layer] > min(features):
                raise ConfigError(f"rank {by_layer[layer]} is above {min(features)}, the size of {path}", key=key)
            try:
                ranks[path] = form.components(by_layer[layer], *features)
            except ValueError as error:
                raise ConfigError(f"{path}: {error}", key=key) from None
    return ranks
