"""Checks of how clients learn (``clients.X.learns``) against the rest of a config."""

from __future__ import annotations

from collections.abc import Iterator

from atlas_cli.config.problems import Problem
from atlas_cli.config.schema.experiment import ClientConfig, ExperimentConfig
from atlas_cli.config.schema.training import AuxiliaryConfig, ZerothOrderConfig

# of privacy: they act on what a client learns from, or change what it sends of a text from step to step
_INSIDE_A_STEP = ("examples", "activations", "nopeek", "mid", "denoise")
_IN_A_STEP = (*_INSIDE_A_STEP, "updates", "mask_gradients", "pad_lengths")

# of MiniLM's half an estimate is off by 3 % of its length at 1e-4, by 21 % at 1e-6, and by 3 times that at 1e-7
LEAST_SMOOTHING = 1e-6


def learning_problems(config: ExperimentConfig) -> Iterator[Problem]:
    """Contradictions between how a client learns and other keys: one problem a client."""
    for name, client in config.clients.items():
        if client.learns == "frozen" and client.rank not in (None, 0):
            yield Problem(("clients", name, "rank"), "a client that learns: frozen has no adapter; set 0, or remove it")
        elif client.learns != "frozen" and client.rank == 0:
            yield Problem(
                ("clients", name, "rank"),
                "must be at least 1, as only a client that learns: frozen has none; set 1 or more, or learns: frozen",
            )
        elif why := next(_AGAINST[client.learns](config, client), None):
            yield Problem(("clients", name, "learns"), f"{client.learns} {why}")
    yield from _ranges(config)
    used, training = {client.learns for client in config.clients.values()}, config.training
    if "zeroth-order" not in used and training.zeroth_order != ZerothOrderConfig():
        yield Problem(("training", "zeroth_order"), "no client learns: zeroth-order; remove it")
    if "auxiliary" not in used and training.auxiliary != AuxiliaryConfig():
        yield Problem(("training", "auxiliary"), "no client learns: auxiliary; remove it")


def _ranges(config: ExperimentConfig) -> Iterator[Problem]:
    """Values that mean nothing, or what another says."""
    training = config.training
    steps = [client.local_steps for client in config.client_kinds() if client.learns == "auxiliary"]
    if steps and training.auxiliary.every > max(steps):
        problem = (
            f"must be at most {max(steps)}, the local steps of a round, got {training.auxiliary.every}: activations go "
            f"up in the first of them in any case; set {max(steps)} for that alone, or raise training.local_steps"
        )
        yield Problem(("training", "auxiliary", "every"), problem)
    if (smoothing := training.zeroth_order.smoothing) < LEAST_SMOOTHING:
        problem = (
            f"must be at least {LEAST_SMOOTHING:g}, got {smoothing:g}: what so small a change of the adapters does is "
            "lost in float32's rounding of the activations; set 1e-4 to 1e-2"
        )
        yield Problem(("training", "zeroth_order", "smoothing"), problem)


def _against_nothing(config: ExperimentConfig, client: ClientConfig) -> Iterator[str]:
    yield from ()


def _against_frozen(config: ExperimentConfig, client: ClientConfig) -> Iterator[str]:
    """Why a client cannot be frozen, and what to do."""
    if config.training.labels == "client":
        yield "trains nothing on the client, and training.labels: client has its head trained there; use labels: server"
    yield from _without_a_backward(config, client)
    if config.clustering is not None and config.clustering.by != "oracle":
        yield f"gives nothing to be put into clusters (clustering.by: {config.clustering.by}); use by: oracle"
    if config.aggregation.cross_group.strength > 0:
        yield "has no adapter that could be mixed; set aggregation.cross_group.strength to 0"
    for key in (*_IN_A_STEP, *config.privacy.added()):
        if getattr(config.privacy, key) not in (None, False):
            yield f"sends each text once, as it is, and privacy.{key} acts on every step; remove privacy.{key}"


def _against_auxiliary(config: ExperimentConfig, client: ClientConfig) -> Iterator[str]:
    """Why a client cannot learn at a head of its own, and what to do."""
    if config.training.labels == "client":
        yield "trains the server by labels that go up, and training.labels: client keeps them; use labels: server"
    if config.mode != "split-federated":
        yield f"leaves the blocks above to the server of a split, and mode is {config.mode}; use split-federated"
    if config.training.drift.name == "scaffold":
        yield "has a loss of its own, whose gradients training.drift: scaffold mixes with others'; use fedprox or none"
    if config.clustering is not None:
        yield "has a head that is merged by task group, and clustering: merges by cluster; remove clustering"
    for key in (*_IN_A_STEP, *config.privacy.added()):
        if getattr(config.privacy, key) not in (None, False):
            yield f"has a loss of its own, for which privacy.{key} is not defined; remove privacy.{key}"


def _against_zeroth_order(config: ExperimentConfig, client: ClientConfig) -> Iterator[str]:
    """Why a client cannot learn by forward passes, and what to do."""
    if config.training.labels == "client":
        yield "has no backward, which a head on the client (training.labels: client) needs; use labels: server"
    yield from _without_a_backward(config, client)
    if "bfloat16" in (client.dtype or config.model.dtype, config.training.autocast):
        yield "takes differences of activations that bfloat16 rounds away; use float32, with training.autocast: off"
    if config.clustering is not None and config.clustering.by == "fingerprints":
        yield "computes no gradient that clustering.by: fingerprints could sketch; use another way"
    if client.rank == "auto" and config.allocation.importance == "gradient":
        yield "computes no gradient that rank: auto could go by; set allocation.importance: uniform, or a rank"
    for key in (*_INSIDE_A_STEP, *config.privacy.added()):
        if getattr(config.privacy, key) is not None:
            yield f"estimates the gradient of what its blocks compute, and privacy.{key} changes that; remove it"


def _without_a_backward(config: ExperimentConfig, client: ClientConfig) -> Iterator[str]:
    """Why a client cannot go without a backward of its own."""
    if config.mode != "split-federated":
        yield f"leaves the backward to the server of a split, and mode is {config.mode}; use split-federated"
    if client.checkpointing:
        yield "has no backward, which checkpointing is for; remove checkpointing"


_AGAINST = {
    "backprop": _against_nothing,
    "auxiliary": _against_auxiliary,
    "zeroth-order": _against_zeroth_order,
    "frozen": _against_frozen,
}
