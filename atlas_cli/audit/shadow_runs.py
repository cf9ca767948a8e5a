"""Runs that an attacker trains for comparison: the config again, on texts and with random numbers of its choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from atlas_cli.audit.figures import Inapplicable
from atlas_cli.audit.two_worlds import reseed
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import NonFiniteError, TooFewClientsError
from atlas_cli.experiment.recorder import Recorder
from atlas_cli.experiment.round_loop import train
from atlas_cli.federation.build import build_for_audit
from atlas_cli.federation.federation import Federation
from atlas_cli.privacy.mechanisms.labels import randomise
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal
from atlas_cli.tasks.contract import Feature


def shadow_federation(config: ExperimentConfig, texts: Mapping[str, Sequence[Feature]], seed: int) -> Federation:
    """The federation of a config before training, with base, method and mechanisms of the run.

    Args:
        texts: by client, what it is trained on; labels are randomised where the run does it.
        seed: of batches, dropout and noise.
    """
    evaluation = config.evaluation.model_copy(update={"every": config.training.rounds})
    federation = build_for_audit(config.model_copy(update={"evaluation": evaluation}))
    for name, group in federation.data.items():
        held = {client: list(texts[client]) for client in group.train}
        none: dict[str, list[Feature]] = {client: [] for client in group.train}
        federation.data[name] = replace(group, train=held, local_test=none, test=group.test[:1], validation=[])
    if config.privacy.labels is not None:
        federation.data = randomise(federation.data, config.privacy.labels, seed)
    reseed(federation, seed)
    return federation


def train_shadow(federation: Federation) -> None:
    """Train it for as many rounds as the run has.

    Raises:
        Inapplicable: it ended early.
    """
    try:
        train(federation, Recorder(federation, None, PlainProgress(Terminal(quiet=True))))
    except (NonFiniteError, TooFewClientsError) as error:
        raise Inapplicable(f"a shadow run ended early: {error}") from None
