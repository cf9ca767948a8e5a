"""Adapters in PEFT format: those of the last round under adapters/, those of best rounds under best_adapters/."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping
from functools import partial
from itertools import count
from typing import Any

from torch import Tensor

from atlas_cli.experiment.best_rounds import ADAPTERS, HEAD, BestRounds
from atlas_cli.experiment.manifest_facts import best_facts
from atlas_cli.experiment.run_state import RunState
from atlas_cli.experiment.whole_adapters import adapter_of, fold_base_change
from atlas_cli.federation.build import assemble
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.parties.party import TrainedModel
from atlas_cli.models.adapters.lora import AdapterSet
from atlas_cli.models.adapters.origin import Origin
from atlas_cli.models.adapters.peft_format import peft_files
from atlas_cli.models.files.resolve import PRETRAINED
from atlas_cli.runs.checkpoint import folders, load_newest
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.storage.folder_names import folder_names
from atlas_cli.storage.whole_folder import whole_folder

FOLDER, BEST_FOLDER = "adapters", "best_adapters"

Doing = Callable[[str, int, int], None]  # what is done, how many of them are done, and how many there are


def _silent(what: str, done: int, of: int) -> None:
    """Nobody wants to know."""


def _of_files(doing: Doing, folder: str, what: str, done: int, of: int) -> None:
    doing(f"{what} {folder}/, files", done, of)


def export_adapters(
    federation: Federation, run: RunDirectory, doing: Doing = _silent, clients: Collection[str] | None = None
) -> None:
    """Write adapters/groups/NAME and adapters/clients/NAME, replacing those of an earlier round.

    Each folder is complete: adapters below the cut, those that the server trained above it, and the head; so that stock
    PEFT gives the logits of the run. Where a method changed the base (``flora``, ``fedex``), the change is in the
    adapter. A group whose clients share no adapter has no folder; one whose clients are in several clusters has a
    folder for each part. NAME comes from ``folder_names``, and is mostly the name itself; origin.json holds the
    original name. ``doing`` is called before each adapter, and after each file that is synced or removed.

    Args:
        clients: only these, and all groups; None: every client.
    """
    shared = {
        part: (group, m) for group in federation.group_names for part, m in federation.models_of_group(group).items()
    }
    names = folder_names(federation.clients)
    wanted = names if clients is None else {client: names[client] for client in clients}
    of = len(shared) + len(wanted)
    with whole_folder(run.path / FOLDER, partial(_of_files, doing, FOLDER)) as write:
        for done, (part, folder) in enumerate(folder_names(shared).items()):
            doing(f"writing {FOLDER}/", done, of)
            group, model = shared[part]
            _write_model(federation, write, f"groups/{folder}", part, group, model)
        for done, (client, folder) in enumerate(wanted.items(), len(shared)):
            doing(f"writing {FOLDER}/", done, of)
            group = federation.group_of(client)
            with federation.at_hand([client]):
                _write_model(federation, write, f"clients/{folder}", client, group, federation.model_of_client(client))


def export_best(
    federation: Federation, run: RunDirectory, best: BestRounds, doing: Doing = _silent
) -> dict[str, list[str]]:
    """Write best_adapters/groups/NAME, each of its task group's best round, replacing those of an earlier end.

    Folders and names are those of adapters/. Of a group whose clients share no adapter there is best_adapters/clients/
    NAME instead, all of the group's best round. ``doing`` is called as by ``export_adapters``.

    Returns:
        the folders of each task group, relative to the run directory.
    """
    clients, found = folder_names(federation.clients), dict[str, list[str]]()
    parts = folder_names([model.partition("/")[2] for each in best.groups.values() for model in each.models])
    if not parts:
        return {}
    of = sum(len(each.models) for each in best.groups.values())
    done = count()
    with whole_folder(run.path / BEST_FOLDER, partial(_of_files, doing, BEST_FOLDER)) as write:
        for group, of_group in best.groups.items():
            for model, tensors in of_group.models.items():
                doing(f"writing {BEST_FOLDER}/", next(done), of)
                kind, _, owner = model.partition("/")
                folder = f"{kind}/{(clients if kind == 'clients' else parts)[owner]}"
                adapters, head = _with_prefix(ADAPTERS, tensors), _with_prefix(HEAD, tensors)
                paths = dict.fromkeys(name.rpartition(".")[0] for name in adapters)
                whole = {
                    path: adapter_of(federation, path, adapters[f"{path}.lora_A"], adapters[f"{path}.lora_B"])
                    for path in paths
                }
                _write(federation, write, folder, owner, group, AdapterSet(whole), head)
                found.setdefault(group, []).append(f"{BEST_FOLDER}/{folder}")
    return found


def export_last_round(
    federation: Federation, run: RunDirectory, manifest: MutableMapping[str, Any], doing: Doing = _silent
) -> None:
    """Export the adapters of the last whole round of an interrupted run, and those of best rounds until then.

    Args:
        manifest: is told of both once they are written: ``adapters_of_round``, None if there is no round, and ``best``.

    Raises:
        OutputError: no room or no permission.
        ResourceError: its checkpoint is damaged.
    """
    checkpoint = load_newest(run)[0] if folders(run) else None
    if checkpoint is None or checkpoint.round == 0:
        manifest["adapters_of_round"], manifest["best"] = None, best_facts(run, {}, None)
        return
    whole = assemble(federation)  # the parties of the run are somewhere inside a round
    whole.protection = federation.protection
    try:
        state = RunState(whole)
        state.restore(checkpoint.tensors, checkpoint.state)
        export_adapters(whole, run, doing)
        manifest["adapters_of_round"] = checkpoint.round
        manifest["best"] = best_facts(run, export_best(whole, run, state.best, doing), checkpoint.round)
    finally:
        whole.close()


def _write_model(
    federation: Federation,
    write: Callable[[str, bytes], None],
    folder: str,
    owner: str,
    group: str,
    model: TrainedModel,
) -> None:
    head = {name: p for name, p in model.head.named_parameters() if p.requires_grad}
    _write(federation, write, folder, owner, group, fold_base_change(federation, model.adapters), head)


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _write(
    federation: Federation,
    write: Callable[[str, bytes], None],
    folder: str,
    owner: str,
    group: str,
    adapters: AdapterSet,
    head: Mapping[str, Tensor],
) -> None:
    lora = federation.config.lora
    files = peft_files(
        federation.base,
        adapters,
        alpha=lora.alpha,
        dropout=lora.dropout,
        rslora=lora.rslora,
        causal_lm=federation.data[group].task.causal_only,
        head=head,
        origin=origin_of(federation, group, owner, of_client=folder.startswith("clients/")),
    )
    for name, content in files.items():
        write(f"{folder}/{name}", content)


def origin_of(federation: Federation, group: str, owner: str, *, of_client: bool) -> Origin:
    """The origin of the adapters and head of a client, or else a group, or a group's part in a cluster."""
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
        quantization=(federation.base_of(owner) if of_client else base).quantization,
    )
