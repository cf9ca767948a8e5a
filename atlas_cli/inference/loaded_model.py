"""A trained model of a run, with the tokenizer and the task that it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.data.collate import pad_token_id
from atlas_cli.errors import ResourceError
from atlas_cli.experiment.run_inputs import changed_tokenizer
from atlas_cli.federation.client_state.new_client import with_cut_parts
from atlas_cli.federation.loaded_experiment import computing_device, set_threads
from atlas_cli.federation.parties.evaluation import Evaluator
from atlas_cli.federation.parties.party import Halves, TrainedModel
from atlas_cli.federation.parties.trainables import build_head
from atlas_cli.federation.warm_start import load_head
from atlas_cli.inference.adapter_folders import Owner, adapter_folder, choose_owner
from atlas_cli.models.adapters.lora import AdapterSet, LoRAAdapter
from atlas_cli.models.adapters.origin import Origin, read_origin, require_same_base
from atlas_cli.models.adapters.peft_reading import Factors, read_head, read_peft
from atlas_cli.models.files.tokenizer_file import require_vocabulary
from atlas_cli.models.frozen.cast import base_in_format
from atlas_cli.models.frozen.load import FrozenBase, check_cut, load_base, load_tokenizer
from atlas_cli.models.frozen.weight_format import WeightFormat
from atlas_cli.privacy.at_the_cut import sent_to_predict
from atlas_cli.privacy.mechanisms._replacement import TokenReplacement
from atlas_cli.privacy.token_replacement import token_replacement
from atlas_cli.runs.directory import RunDirectory, open_run
from atlas_cli.runs.resumable import config_of
from atlas_cli.tasks import build as build_task
from atlas_cli.tasks.contract import BaseTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class LoadedModel:
    """A trained model of a run, ready to use. The data of the run is not needed, nor read.

    Attributes:
        run: the run that it is of; ``manifest`` and ``config`` are the run's.
        owner: the task group or client whose model it is; ``round``: the last round that it was trained in.
        origin: what its folder says of it: base, task, classes.
        base: the frozen base in ``model.dtype`` and ``model.quantization``, as the server has it.
        model: adapters on both sides of the cut, head, and the two halves.
        task: the task, with its classes.
        device: where it computes.
    """

    run: RunDirectory
    manifest: Mapping[str, Any]
    config: ExperimentConfig
    owner: Owner
    round: int
    origin: Origin
    base: FrozenBase
    model: TrainedModel
    task: BaseTask
    tokenizer: PreTrainedTokenizerBase
    device: torch.device

    @property
    def quantized(self) -> bool:
        """Whether any of its weights are quantised."""
        return any(base.quantization != "none" for base in (self.base, self.halves.lower, self.halves.upper))

    def unquantized(self) -> LoadedModel:
        """The same adapters and head on the base's own weights, loaded anew: what is merged and exported."""
        if not self.quantized:
            return self
        lower, upper, cut = self.halves
        source = load_base(self.config.model, seed=self.config.seed, device=self.device)
        below = base_in_format(source, WeightFormat(lower.format.dtype))
        halves = Halves(below, below if upper is lower else source, cut)
        return replace(self, base=source, model=replace(self.model, halves=halves))

    @property
    def halves(self) -> Halves:
        """The frozen blocks below and above the cut; where clients have another dtype, those of the two differ."""
        assert self.model.halves is not None
        return self.model.halves

    @property
    def cut(self) -> int:
        """The number of blocks below the cut."""
        return self.halves.cut

    @property
    def pad(self) -> int:
        """The token id that fills up a batch."""
        return pad_token_id(self.tokenizer)

    @property
    def noise_at_the_cut(self) -> bool:
        """Whether a mechanism of the run changes what crosses the cut, in predictions as in training."""
        return self.changed_at_the_cut is not None

    @property
    def changed_at_the_cut(self) -> str | None:
        """A clause on what a mechanism of the run changes of what crosses the cut, in predictions as in training."""
        if (words := self.config.privacy.replaces_tokens()) is not None:
            return f"tokens of texts were replaced by others (privacy.{words})"
        if self.evaluator().sent is not None:
            return "activations at the cut were changed by the run's privacy mechanisms"
        return None

    @cached_property
    def replacement(self) -> TokenReplacement | None:
        """What replaces tokens before the client half, in predictions as in training; None where nothing does."""
        return token_replacement(self.config.privacy, self.base, self.tokenizer)

    def evaluator(self, batch_size: int | None = None) -> Evaluator:
        """Runs examples through both halves, as the run's evaluations did: with its noise at the cut, too."""
        size = self.config.evaluation.batch_size if batch_size is None else batch_size
        evaluator = Evaluator(self.base, self.cut, size, self.pad, self.device)
        noise = self.manifest["privacy"]["mechanisms"].get("activations", {}).get("noise_multiplier")
        evaluator.sent = sent_to_predict(self.config.privacy, noise, self.config.seed)
        return evaluator


def open_model(
    path: str | Path,
    *,
    group: str | None = None,
    client: str | None = None,
    round_number: int | None = None,
    device: str | None = None,
) -> LoadedModel:
    """Load a trained model of a run: of a task group, or a client's own.

    Args:
        path: the run directory.
        group, client: whose; neither where the run has one task group.
        round_number: after which round; None for the last that is kept.
        device: where to compute; None for the run's.

    Raises:
        ConfigError: no such group, client, round or device.
        ResourceError: no run directory, damaged files, or another base or tokenizer than that of the run.
    """
    run = open_run(path)
    config = config_of(run)
    owner = choose_owner(config, group, client)
    with adapter_folder(run, config, owner, round_number) as (folder, number):
        return _load(
            run, config if device is None else config.model_copy(update={"device": device}), owner, folder, number
        )


def _load(run: RunDirectory, config: ExperimentConfig, owner: Owner, folder: Path, number: int) -> LoadedModel:
    where, manifest = computing_device(config), run.read_json("manifest.json")
    set_threads(config)
    origin = read_origin(folder)
    if origin is None:
        raise ResourceError(f"{folder} has no origin.json; the run's adapters are not whole")
    tokenizer = load_tokenizer(config.model)
    if changed := changed_tokenizer(manifest, tokenizer):
        raise ResourceError(f"{run.path} cannot be used: {changed}")
    source = load_base(config.model, seed=config.seed, device=where)
    base = base_in_format(source, WeightFormat.of(config.model))
    require_vocabulary(tokenizer, base.config.vocab_size)
    require_same_base(folder, origin, base)
    rule = config.training.on_truncated
    metric = config.task_groups[owner.group].metric
    task = build_task(origin.task, origin.classes, origin.pooling, keep_end=rule == "keep-end", metric=metric)
    head = build_head(base, task, config.seed, owner.group, where)
    head = with_cut_parts(config, head, base, owner.group, where)
    if saved := read_head(folder):
        load_head(head, saved, origin, task, str(folder), f"task_groups.{owner.group}")
    adapters = _adapters(read_peft(folder, base), where)
    model = TrainedModel(adapters, head, _halves(config, owner, source, base))
    return LoadedModel(run, manifest, config, owner, number, origin, base, model, task, tokenizer, where)


@torch.no_grad()
def _adapters(found: Mapping[str, Factors], device: torch.device) -> AdapterSet:
    adapters = {}
    for path, (A, B, scale) in found.items():
        adapter = LoRAAdapter(A.shape[1], B.shape[0], A.shape[0]).requires_grad_(False)
        adapter.scaling = scale
        adapter.lora_A.copy_(A)
        adapter.lora_B.copy_(B)
        adapters[path] = adapter.to(device)
    return AdapterSet(adapters)


def _halves(config: ExperimentConfig, owner: Owner, source: FrozenBase, base: FrozenBase) -> Halves:
    """The blocks as a client held them, in its format and cut where it is; a group's at the smallest cut."""
    specs = {client.name: client for client in config.expanded_clients() if client.task_group == owner.group}
    cuts = {name: check_cut(_number(spec.split_layer), base.n_layers) for name, spec in specs.items()}
    if owner.client not in specs:  # of a group, or of the learner that has all data of its group
        return Halves(base, base, max(cuts.values()) if owner.client else min(cuts.values()))
    cut, format = cuts[owner.client], WeightFormat.of(specs[owner.client])
    if format == base.format:
        return Halves(base, base, cut)
    if config.mode == "split-federated":
        return Halves(base_in_format(source, format, cut, output=False, server=base), base, cut)
    whole = base_in_format(source, format)
    return Halves(whole, whole, cut)


def _number(split_layer: int | str | None) -> int | None:
    assert split_layer != "auto", "the config of a run has numbers"
    return split_layer if split_layer is None else int(split_layer)
