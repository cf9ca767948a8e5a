"""Every client's and every task group's adapter in PEFT format, under adapters/ in the run directory."""

from __future__ import annotations

from collections.abc import Callable

import torch

from atlas_cli.aggregation.contract import Factors, absorb, scales_of
from atlas_cli.aggregation.low_rank import stack, truncate
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.build import assemble
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.parties.party import TrainedModel
from atlas_cli.models.adapters.lora import AdapterSet, LoRAAdapter
from atlas_cli.models.adapters.origin import Origin
from atlas_cli.models.adapters.peft_format import peft_files
from atlas_cli.models.files.resolve import PRETRAINED
from atlas_cli.runs.checkpoint import folders, load_newest
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.storage.folder_names import folder_names
from atlas_cli.storage.whole_folder import whole_folder

FOLDER = "adapters"


def export_adapters(federation: Federation, run: RunDirectory) -> None:
    """Write adapters/groups/NAME and adapters/clients/NAME, replacing those of an earlier round.

    Each folder is complete: adapters below the cut, those that the server trained above it, and the head; so that stock
    PEFT gives the logits of the run. Where a method changed the base (``flora``, ``fedex``), the change is in the
    adapter. A group whose clients share no adapter has no folder; one whose clients are in several clusters has a
    folder for each part. NAME comes from ``folder_names``, and is mostly the name itself; origin.json holds the
    original name.
    """
    shared = {
        part: (group, m) for group in federation.group_names for part, m in federation.models_of_group(group).items()
    }
    with whole_folder(run.path / FOLDER) as write:
        for part, folder in folder_names(shared).items():
            _write(federation, write, f"groups/{folder}", part, *shared[part])
        for client, folder in folder_names(federation.clients).items():
            group = federation.group_of(client)
            with federation.at_hand([client]):
                _write(federation, write, f"clients/{folder}", client, group, federation.model_of_client(client))


def export_last_round(federation: Federation, run: RunDirectory) -> int | None:
    """Export the adapters of the last whole round of an interrupted run; returns its number, None if there is none.

    Raises:
        OutputError: no room or no permission.
        ResourceError: its checkpoint is damaged.
    """
    if not folders(run):
        return None
    checkpoint = load_newest(run)[0]
    if checkpoint.round == 0:
        return None
    whole = assemble(federation)  # the parties of the run are somewhere inside a round
    try:
        RunState(whole).restore(checkpoint.tensors, checkpoint.state)
        export_adapters(whole, run)
    finally:
        whole.close()
    return checkpoint.round


def _write(
    federation: Federation,
    write: Callable[[str, bytes], None],
    folder: str,
    owner: str,
    group: str,
    model: TrainedModel,
) -> None:
    lora = federation.config.lora
    files = peft_files(
        federation.base,
        fold_base_change(federation, model.adapters),
        alpha=lora.alpha,
        dropout=lora.dropout,
        rslora=lora.rslora,
        causal_lm=federation.data[group].task.causal_only,
        head={name: p for name, p in model.head.named_parameters() if p.requires_grad},
        origin=origin_of(federation, group, owner),
    )
    for name, content in files.items():
        write(f"{folder}/{name}", content)


def origin_of(federation: Federation, group: str, owner: str) -> Origin:
    """The origin of the adapters and head of a client, a group, or a group's part in a cluster."""
    config, base, task = federation.config, federation.base, federation.data[group].task
    drawn = base.init != PRETRAINED
    return Origin(
        owner=owner,
        base=base.name,
        weights=base.init,
        seed=config.seed if drawn else None,
        revision=None if drawn else config.model.revision,
        dtype=str(base.dtype).removeprefix("torch."),
        sha256=base.sha256,
        task=config.task_groups[group].task,
        classes=task.classes,
        pooling=task.pooling,
    )


@torch.no_grad()
def fold_base_change(federation: Federation, adapters: AdapterSet) -> AdapterSet:
    """Fold base changes into the adapters: the same update with one adapter per layer, of sufficient rank."""
    if not adapters.frozen:
        return adapters
    lora, own = federation.config.lora, absorb(adapters.state(), scales_of(adapters))
    result: dict[str, LoRAAdapter] = {}
    for path in (path for path in federation.plan.features if path in own or path in adapters.frozen):
        pieces = [Factors(A, B) for A, B in adapters.frozen.get(path, ())] + ([own[path]] if path in own else [])
        whole = stack([(1.0, piece) for piece in pieces], torch.float32)
        d_in, d_out = federation.plan.features[path]
        whole = truncate(whole, min(d_in, d_out)) if whole.rank > min(d_in, d_out) else whole
        adapter = LoRAAdapter(d_in, d_out, whole.rank, lora.alpha, lora.dropout, lora.rslora).to(whole.A.device)
        adapter.lora_A.copy_(whole.A)
        adapter.lora_B.copy_(whole.B / adapter.scaling)
        result[path] = adapter
    return AdapterSet(result)
