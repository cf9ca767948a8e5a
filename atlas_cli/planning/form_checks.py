"""What is defined for adapters that are factors A and B of dW: refused where they have another form."""

from __future__ import annotations

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import ConfigError
from atlas_cli.models.adapters.lora import LORA
from atlas_cli.planning.method import method_of

# by the last part of its key, what is defined for factors A and B of dW alone, and what to do
_OF_FACTORS = {
    "examples": "gradients of single texts are computed of A and B; remove it",
    "clustering": "fingerprints and mixed clusters are of A and B; remove it",
    "audit": "attacks read A and B; remove it",
    "rslora": "is a scale of A and B; remove it",
    "adapter": "is a LoRA adapter, of A and B; remove it",
    "rank": "auto counts rows of A and columns of B; give a number",
    "split_layer": "auto goes by the memory of A and B; give a number",
}


def check_form(config: ExperimentConfig) -> None:
    """Refuse what is defined for adapters that are factors A and B of dW, where they have another form.

    Raises:
        ConfigError: names the first such key.
    """
    if method_of(config).form() == LORA:
        return
    named = [*config.clients.items()]
    asked = {
        "privacy.examples": config.privacy.examples is not None,
        "clustering": config.clustering is not None,
        "audit": config.audit is not None,
        "lora.rslora": config.lora.rslora,
        "lora.rank": config.lora.rank == "auto",
        "model.split_layer": config.model.split_layer == "auto",
        **{f"task_groups.{name}.adapter": bool(group.adapter) for name, group in config.task_groups.items()},
        **{f"clients.{name}.rank": client.rank == "auto" for name, client in named},
        **{f"clients.{name}.split_layer": client.split_layer == "auto" for name, client in named},
    }
    if key := next((key for key, here in asked.items() if here), None):
        raise ConfigError(
            f"{_OF_FACTORS[key.rpartition('.')[2]]}, or use another aggregation.method: adapters of "
            f"{config.aggregation.method} are no factors A and B of dW",
            key=key,
        )
