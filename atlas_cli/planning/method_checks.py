"""What a config asks of its aggregation method that this method cannot do: refused, with the key."""

from __future__ import annotations

from atlas_cli.aggregation.contract import PARTS, BaseMethod, Layer
from atlas_cli.aggregation.merge_optimizer import Rule, undefined_for
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import ConfigError
from atlas_cli.planning.method import methods_that


def check_method(config: ExperimentConfig, method: BaseMethod) -> None:
    """Check what other keys ask of the method.

    Raises:
        ConfigError: it cannot do that; says which methods can, or what to do.
    """
    for check in (
        _check_mixing,
        _check_merge_optimizer,
        _check_drift,
        _check_screen,
        _check_extra_tensors,
        _check_late,
    ):
        check(config, method)


def _check_mixing(config: ExperimentConfig, method: BaseMethod) -> None:
    """Refuse to mix groups that do not predict with their adapters alone."""
    if config.aggregation.cross_group.strength > 0 and not can_be_mixed(method):
        raise ConfigError(
            f"{config.aggregation.method} has no group adapters that can be mixed; set it to 0, or use one of "
            f"{methods_that(can_be_mixed)}",
            key="aggregation.cross_group.strength",
        )


def can_be_mixed(method: BaseMethod) -> bool:
    """Whether a group predicts with an adapter alone that is free in A and B, and of whose components nothing else is
    kept."""
    alone = method.GROUP_ADAPTER and not method.CHANGES_BASE and set(method.parts_of(1).trained) == set(PARTS)
    return bool(method.SENT) and alone and not method.extra_tensors({"": Layer(1, 1, 1)}).at_server


def _check_merge_optimizer(config: ExperimentConfig, method: BaseMethod) -> None:
    """Refuse a rule to move groups by if the method leaves no change of a group's adapter."""
    rule, name = Rule.of(config.aggregation.optimizer), config.aggregation.method
    if config.aggregation.normalise != "none" and not method.LINEAR:
        raise ConfigError(
            "fednova is of methods whose merge is the weighted sum of clients' changes "
            f"({methods_that(lambda m: m.LINEAR == 'any ranks')}; among equal ranks "
            f"{methods_that(lambda m: m.LINEAR == 'equal ranks')}), and that of {name} is not; use one of these, or "
            "none",
            key="aggregation.normalise",
        )
    if rule.is_plain:
        return
    if reason := undefined_for(method):
        raise ConfigError(
            f"{rule.name} is not defined with {name}, which {reason}; use sgd with lr 1, or one of "
            f"{methods_that(lambda m: undefined_for(m) is None)}",
            key="aggregation.optimizer",
        )
    if rule.adaptive and rule.second == "row-column" and "A" not in method.TRAINED:
        raise ConfigError(
            f"row-column scales the columns of dW, and {name} has one A that does not change; use layer",
            key="aggregation.optimizer.second",
        )
    if rule.rank is not None and "A" not in method.TRAINED:
        raise ConfigError(
            f"the running sum is of B with {name}, and is kept whole; remove it", key="aggregation.optimizer.rank"
        )


def _check_drift(config: ExperimentConfig, method: BaseMethod) -> None:
    """Refuse what keeps clients together where they share nothing that they could be kept by."""
    drift, name = config.training.drift.name, config.aggregation.method
    if drift == "none":
        return
    noise = next((key for key in ("updates", "examples") if getattr(config.privacy, key) is not None), None)
    other = next((f"{client} learns: {c.learns}" for client, c in config.clients.items() if c.learns != "backprop"), "")
    others = "fedprox or none"
    if not method.SENT:
        problem, others = f"{drift} goes by what is delivered, and with aggregation.method: {name} nothing is", "none"
    elif drift == "fedprox":
        return
    elif not method.GROUP_ADAPTER:
        problem = f"with {name} clients keep parts of their own, so that their gradients are of different adapters"
    elif method.extra_tensors({"": Layer(1, 1, 1)}).up:
        problem = f"{name} corrects gradients itself"
    elif method.SELECTS:
        problem = f"with {name} clients train components of their own, so that their gradients are of different ones"
    elif noise is not None:
        problem = f"gradients of the first step are sent without noise, which privacy.{noise} promises"
    elif other:
        problem = f"it corrects the gradients of a backward pass, and client {other}"
    else:
        return
    raise ConfigError(f"{problem}; use {others}", key="training.drift.name")


def _check_screen(config: ExperimentConfig, method: BaseMethod) -> None:
    """Refuse to screen by the norm of updates if none are sent."""
    if config.screen.max_norm_ratio is not None and "B" not in method.SENT:
        problem = f"with {config.aggregation.method} no client sends an update that has a norm; remove it"
        raise ConfigError(problem, key="screen.max_norm_ratio")


def _check_late(config: ExperimentConfig, method: BaseMethod) -> None:
    """Refuse updates of earlier versions where the method cannot merge them."""
    if config.training.asynchrony is not None and not method.TAKES_LATE:
        raise ConfigError(
            f"{config.aggregation.method} has no rule for an update that began from an earlier version of the group's "
            f"adapter; use one of {methods_that(lambda m: m.TAKES_LATE is not None)}, or remove training.asynchrony",
            key="aggregation.method",
        )


def _check_extra_tensors(config: ExperimentConfig, method: BaseMethod) -> None:
    """Refuse methods that send more than adapters if noise protects only adapters."""
    if config.privacy.updates is not None and method.extra_tensors({"": Layer(1, 1, 1)}).up:
        raise ConfigError(
            f"{config.aggregation.method} has clients send more than adapters, which privacy.updates puts no noise on; "
            "use another aggregation.method",
            key="privacy.updates",
        )
