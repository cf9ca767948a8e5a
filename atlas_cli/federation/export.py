"""Every client's and every task group's adapter in PEFT format, under adapters/ in the run directory."""

from __future__ import annotations

from atlas_cli.federation.build import Federation
from atlas_cli.federation.evaluation import TrainedModel
from atlas_cli.models.peft_format import peft_files
from atlas_cli.runs.directory import RunDirectory


def export_adapters(federation: Federation, run: RunDirectory) -> None:
    """Write adapters/groups/NAME and adapters/clients/NAME.

    Each folder is complete: adapters below the cut, those that the server trained above it, and the head; so that stock
    PEFT gives the logits of the run. A group whose clients share nothing has no folder.
    """
    for group in federation.group_names:
        model = federation.model_of_group(group)
        if model is not None:
            _write(federation, run, f"adapters/groups/{group}", group, model)
    for client in federation.clients:
        group = federation.group_of(client)
        _write(federation, run, f"adapters/clients/{client}", group, federation.model_of_client(client))


def _write(federation: Federation, run: RunDirectory, folder: str, group: str, model: TrainedModel) -> None:
    lora = federation.config.lora
    files = peft_files(
        federation.base,
        model.adapters,
        alpha=lora.alpha,
        dropout=lora.dropout,
        rslora=lora.rslora,
        causal_lm=federation.data[group].task.causal_only,
        head={name: p for name, p in model.head.named_parameters() if p.requires_grad},
    )
    for name, content in files.items():
        run.write_bytes(f"{folder}/{name}", content)
