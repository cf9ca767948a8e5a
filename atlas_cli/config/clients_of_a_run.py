"""How many clients a run may have; a plan, which looks at their kinds alone, may be of more."""

from __future__ import annotations

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import ConfigError

MOST_IN_A_RUN = 100_000  # a run writes an adapter for each, five small files


def require_few_enough(config: ExperimentConfig) -> None:
    """Check that a config has no more clients than a run may have.

    Raises:
        ConfigError: it has more; names the entry with the most.
    """
    if (clients := clients_in_all(config)) > MOST_IN_A_RUN:
        most = max(config.clients, key=lambda name: config.clients[name].count)
        raise ConfigError(
            f"a run has at most {MOST_IN_A_RUN} clients, and this config has {clients}; lower it, or plan them "
            "(atlas validate FILE)",
            key=f"clients.{most}.count",
        )


def notes_on_clients(config: ExperimentConfig) -> list[str]:
    """What a plan says of more clients than a run may have."""
    if (clients := clients_in_all(config)) <= MOST_IN_A_RUN:
        return []
    return [f"{clients:,} clients are planned, and not trained: a run has at most {MOST_IN_A_RUN:,}"]


def clients_in_all(config: ExperimentConfig) -> int:
    """The number of clients of all entries."""
    return sum(client.count for client in config.clients.values())
