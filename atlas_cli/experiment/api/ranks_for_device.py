"""The Python interface to devices and ranks, for callers without a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atlas_cli.config.schema.experiment import ModelConfig
from atlas_cli.errors import ConfigError
from atlas_cli.models.adapters.lora import features_of
from atlas_cli.models.adapters.placement import adapted_names
from atlas_cli.models.families import family_of
from atlas_cli.models.files.architectures import built_in
from atlas_cli.models.files.resolve import model_config
from atlas_cli.models.frozen.load import check_cut
from atlas_cli.models.frozen.meta_model import meta_model
from atlas_cli.planning.devices.devices import Device, find_device, measure_this_machine
from atlas_cli.planning.memory.party_memory import PartyMemory, adapter_bytes
from atlas_cli.planning.memory.predict import predict_client
from atlas_cli.planning.memory.step import Step
from atlas_cli.planning.published_dtype import planned_dtype
from atlas_cli.planning.ranks.costs import ByPath, Targets, rank_costs
from atlas_cli.planning.ranks.rules import RankProblem, allocate


class DeviceProfiler:
    """Finds out what a device can do.

    Example:
        >>> DeviceProfiler().profile("phone-2gib").memory
        2147483648
    """

    def profile(self, name: str | None = None) -> Device:
        """A built-in profile by name, or this machine, measured.

        Raises:
            ConfigError: no profile of that name.
        """
        return measure_this_machine() if name is None else find_device(name)


class RankAllocator:
    """Ranks for the client half of a model by prefix-greedy, so that a training step fits a device's memory.

    Args:
        model_name: known architecture, packaged name, local folder or hub id; weights are not loaded.
        batch_size, max_length: of a training step.
        targets: linear layers to adapt, as ``lora.targets``.
        dtype: of the frozen weights, "float32" or "bfloat16"; None: that of the published weights.
        r_min, r_max: every layer gets at least and at most this.

    Raises:
        ResourceError: the model cannot be found.
        ConfigError: no such target.

    Example:
        >>> ranks = RankAllocator("gpt2").allocate_ranks("phone-2gib", importance=[3.0, 1.0, 2.0], n_layers=3)
        >>> sorted(ranks)
        [0, 1, 2]
    """

    def __init__(
        self,
        model_name: str = "gpt2",
        *,
        batch_size: int = 8,
        max_length: int = 128,
        targets: str | list[str] = "auto",
        dtype: str | None = None,
        r_min: int = 1,
        r_max: int = 64,
    ) -> None:
        known = built_in(model_name)
        model = ModelConfig.model_validate({"name": model_name, **({"dtype": dtype} if dtype is not None else {})})
        self.hf_config = known if known is not None else model_config(model)[0]
        self.family = family_of(self.hf_config)
        self.batch_size, self.max_length = batch_size, max_length
        self.dtype = planned_dtype(self.hf_config) if dtype is None else dtype
        self.r_min, self.r_max = r_min, r_max
        base, _ = meta_model(self.hf_config, self.family)
        names = adapted_names(base, self.family, targets)
        self._layers: Targets = {
            layer: {path: features_of(base.get_submodule(path)) for path in self._paths(layer, names)}
            for layer in range(int(self.hf_config.num_hidden_layers))
        }

    def allocate_ranks(
        self, device_profile: Device | str, importance: Mapping[int, float] | Sequence[float], n_layers: int
    ) -> dict[int, int]:
        """Rank of each of the ``n_layers`` layers that the client keeps.

        Args:
            device_profile: what ``DeviceProfiler`` gives, or the name of a built-in profile.
            importance: of each of these layers, in their order or by layer; at least 0.

        Raises:
            ConfigError: no such device, one without memory, or one that cannot afford ``r_min``; importance that is not
                of these layers.
        """
        device = find_device(device_profile) if isinstance(device_profile, str) else device_profile
        if device.memory is None:
            raise ConfigError(f"device {device.name} has no memory, and ranks are fitted to it", key="device_profile")
        cut = check_cut(n_layers, len(self._layers))
        given = dict(importance) if isinstance(importance, Mapping) else dict(enumerate(importance))
        if sorted(given) != list(range(cut)):
            raise ConfigError(f"must be of layers 0 to {cut - 1}, one figure each", key="importance")
        targets = {layer: self._layers[layer] for layer in range(cut)}
        features = {path: each for paths in targets.values() for path, each in paths.items()}

        step = Step(self.batch_size, self.max_length, dtype=self.dtype, fused_gelu=True)

        def memory(ranks: ByPath) -> PartyMemory:
            return predict_client(self.family, self.hf_config, cut, ranks, features, step)

        def uplink(ranks: ByPath) -> int:
            return adapter_bytes(ranks, features)

        positions = self.batch_size * self.max_length
        costs = rank_costs(memory, uplink, targets, positions, self.r_min, self.r_max)
        budgets = {"memory": device.memory}
        room = costs.unit_costs, budgets, costs.fixed, self.r_min, costs.r_max
        return allocate(RankProblem(given, *room, key="device_profile")).ranks

    def _paths(self, layer: int, names: list[str]) -> list[str]:
        return [f"{self.family.blocks}.{layer}.{name}" for name in names]
