"""Checks of the mechanisms of ``privacy`` against the rest of a config."""

from __future__ import annotations

from collections.abc import Iterator

from atlas_cli.config.problems import Problem
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.schema.privacy import AT_THE_CUT

# methods that are given one update, the noisy mean of changes; the others look at each update by itself
CENTRAL_METHODS = ("ffa", "zero-pad", "fedsa", "delta-svd")
LEAST_SAMPLED_DELTA = 1e-10  # composed privacy losses lose up to about 1e-13 of probability to rounding


def privacy_problems(config: ExperimentConfig) -> Iterator[Problem]:
    """Mechanisms that would not give the guarantee of their epsilon, or would have no effect."""
    for check in (
        _through_the_split,
        _users,
        _updates,
        _examples,
        _data_dependent,
        _labels,
        _fingerprints,
        _at_the_cut,
        _bottleneck,
        _denoiser,
        _budget,
    ):
        yield from check(config)


def _through_the_split(config: ExperimentConfig) -> Iterator[Problem]:
    for name in (*AT_THE_CUT, "nopeek", "mid", "denoise", "mask_gradients", "pad_lengths", *config.privacy.added()):
        if getattr(config.privacy, name) not in (None, False) and config.mode != "split-federated":
            yield Problem(("privacy", name), f"acts on what crosses a split, and mode is {config.mode}; remove it")


def _users(config: ExperimentConfig) -> Iterator[Problem]:
    asked, clients = config.privacy.clients_per_user, sum(config.group_sizes().values())
    if asked > max(clients, 1):
        yield Problem(
            ("privacy", "clients_per_user"), f"must be at most {clients}, the clients of this config, got {asked}"
        )


def _updates(config: ExperimentConfig) -> Iterator[Problem]:
    updates, method = config.privacy.updates, config.aggregation.method
    if updates is None:
        return
    if config.mode in ("local-only", "centralized") or method == "none":
        why = "aggregation.method is none" if method == "none" else f"mode is {config.mode}"
        yield Problem(("privacy", "updates"), f"no client sends an update, for {why}; remove it")
    if config.privacy.examples is not None:
        yield Problem(
            ("privacy", "updates"), "privacy.examples bounds the same channel, for an example; give one of the two"
        )
    if updates.where == "client":
        return
    if method not in CENTRAL_METHODS:
        yield Problem(
            ("aggregation", "method"),
            f"{method} looks at single updates, which have no noise with privacy.updates.where: server; use ffa "
            f"(recommended: only B is sent), {', '.join(CENTRAL_METHODS[1:])}, or where: client",
        )
    for name, client in config.clients.items():
        if client.weight != 1:
            yield Problem(
                ("clients", name, "weight"), "noise of privacy.updates is for a mean of equal weights; remove it"
            )
    if config.screen.max_norm_ratio is not None:
        yield Problem(
            ("screen", "max_norm_ratio"),
            "depends on updates without noise; remove it, or use privacy.updates.where: client",
        )
    if config.clustering is not None and config.clustering.by != "oracle":
        yield Problem(
            ("clustering", "by"),
            "noise is for a fixed number of clients, and clusters have none; use privacy.updates.where: client",
        )
    for group in config.task_groups:
        own = {client.split_layer for client in config.clients.values() if client.task_group == group}
        if len(own) > 1:
            yield Problem(
                ("privacy", "updates", "where"),
                f"clients of {group} have different split layers, so the server trains layers that are merged, without "
                "noise; use where: client",
            )


def _examples(config: ExperimentConfig) -> Iterator[Problem]:
    if config.privacy.examples is None:
        return
    if config.mode in ("local-only", "centralized"):
        yield Problem(("privacy", "examples"), f"no client sends an update, for mode is {config.mode}; remove it")
    if config.training.labels == "server" and config.mode == "split-federated":
        yield Problem(
            ("training", "labels"),
            "a head that the server trains without noise tells of every example; with privacy.examples: labels: client",
        )
    if config.server.rank and config.mode == "split-federated":
        yield Problem(
            ("server", "rank"), "the server would train on every example without noise; privacy.examples needs rank: 0"
        )
    if config.privacy.delta < LEAST_SAMPLED_DELTA:
        yield Problem(
            ("privacy", "delta"),
            f"the accountant of Poisson samples rounds by as much as that; with privacy.examples give "
            f"{LEAST_SAMPLED_DELTA:g} or more",
        )
    if config.training.on_nonfinite == "drop-client":
        yield Problem(
            ("training", "on_nonfinite"),
            "who is dropped depends on which examples were drawn, and tells of them without noise; use stop",
        )
    if config.training.deadline is not None:
        yield Problem(
            ("training", "deadline"),
            "who is too late depends on which examples were drawn, and tells of them without noise; remove it",
        )
    if config.lora.dropout:
        yield Problem(("lora", "dropout"), "gradients of single examples are computed without it; set it to 0")
    for name, client in config.clients.items():
        if client.checkpointing:
            yield Problem(
                ("clients", name, "checkpointing"), "gradients of single examples need what it drops; remove it"
            )
    for name in config.privacy.added():
        yield Problem(("privacy", name), "adds to what privacy.examples clips and puts noise on; remove one of the two")
    if config.privacy.nopeek is not None:
        yield Problem(
            ("privacy", "nopeek"), "couples the examples of a batch, and privacy.examples clips each; remove it"
        )
    for name in ("mid", "denoise"):
        if getattr(config.privacy, name) is not None:
            yield Problem(
                ("privacy", name),
                "has parameters whose gradient by example is not computed, and privacy.examples clips each; remove it",
            )


def _data_dependent(config: ExperimentConfig) -> Iterator[Problem]:
    """What would tell of the data past the noise on updates."""
    yield from _probed_layers(config)
    if config.privacy.updates is None and config.privacy.examples is None:
        return
    central = config.privacy.updates is not None and config.privacy.updates.where == "server"
    if (weights := config.aggregation.weights) not in (("uniform",) if central else ("uniform", "inverse-rank")):
        yield Problem(
            ("aggregation", "weights"),
            f"weights by {weights} are not covered by noise on updates; use weights: uniform",
        )
    if config.aggregation.options.get("prune") is not None:
        yield Problem(("aggregation", "options", "prune"), "ranks that clients prune tell of updates without noise")


def _probed_layers(config: ExperimentConfig) -> Iterator[Problem]:
    """Layers are probed on training examples through the split, before any mechanism is in place."""
    privacy = config.privacy
    what = "updates" if privacy.updates is not None or privacy.examples is not None else "activations"
    if what == "activations" and privacy.activations is None and privacy.mid is None:
        return
    asks = any(spec.rank == "auto" for spec in config.client_kinds())
    if asks and config.allocation.importance == "gradient":
        yield Problem(
            ("allocation", "importance"),
            f"ranks by gradients tell of data past the noise on {what}; use uniform or random",
        )


def _labels(config: ExperimentConfig) -> Iterator[Problem]:
    if config.privacy.labels is None:
        return
    if config.mode in ("local-only", "centralized"):
        yield Problem(("privacy", "labels"), f"no client sends labels, for mode is {config.mode}; remove it")


def _fingerprints(config: ExperimentConfig) -> Iterator[Problem]:
    if config.privacy.fingerprints is None:
        return
    if config.clustering is None or config.clustering.by != "fingerprints":
        yield Problem(
            ("privacy", "fingerprints"), "no fingerprint is sent without clustering.by: fingerprints; remove it"
        )


def _at_the_cut(config: ExperimentConfig) -> Iterator[Problem]:
    """One mechanism bounds what is sent of words, and one that replaces tokens needs them all."""
    on = [name for name in AT_THE_CUT if getattr(config.privacy, name) is not None]
    for name in on[1:]:
        yield Problem(("privacy", name), f"privacy.{on[0]} bounds the same channel, activations; give one of the two")
    words = config.privacy.replaces_tokens()
    for name, client in config.clients.items() if words is not None else ():
        if client.embedding == "rows":
            yield Problem(
                ("clients", name, "embedding"),
                f"privacy.{words} looks for near tokens in the whole table, and the client would hold rows of its "
                "texts alone; remove it",
            )


def _bottleneck(config: ExperimentConfig) -> Iterator[Problem]:
    """A bottleneck is a part of the client's head, and is there for all that a client sends of its texts."""
    if config.privacy.mid is None or config.mode != "split-federated":
        return
    if config.training.labels == "server":
        yield Problem(
            ("privacy", "mid"), "is a part of the client's head, and training.labels is server; set labels: client"
        )
    if config.clustering is not None and config.clustering.by == "fingerprints":
        yield Problem(
            ("privacy", "mid"),
            "is not trained when fingerprints are taken, so that activations would be sent without it; use "
            "clustering.by: oracle, or remove it",
        )


def _denoiser(config: ExperimentConfig) -> Iterator[Problem]:
    """A denoiser is a part of the client's own head, and reads the features that come back to it."""
    if config.privacy.denoise is None or config.mode != "split-federated":
        return
    if config.privacy.activations is None:
        yield Problem(("privacy", "denoise"), "there is no noise to take out; set privacy.activations, or remove it")
    if config.training.labels == "server":
        yield Problem(
            ("privacy", "denoise"), "is a part of the client's head, and training.labels is server; set labels: client"
        )


def _budget(config: ExperimentConfig) -> Iterator[Problem]:
    """A budget is of what has an epsilon, and what the noise was searched for is within it."""
    privacy = config.privacy
    if (budget := privacy.budget) is None:
        return
    key, bounded = ("privacy", "budget"), privacy.bounded()
    if not bounded:
        yield Problem(
            key,
            "no mechanism with noise is on, so that no channel has an epsilon to hold against it; set one, or "
            "remove it",
        )
        return
    named = budget.epsilon if isinstance(budget.epsilon, dict) else dict.fromkeys(bounded, budget.epsilon)
    if (words := privacy.replaces_tokens()) is not None and "activations" in named:
        yield Problem(
            (*key, "epsilon"),
            f"privacy.{words} tells all that it will before the first round, so that no round would be left out; name "
            "the channels that grow, e.g. {updates: 8}, or remove it",
        )
    for channel in budget.epsilon if isinstance(budget.epsilon, dict) else ():
        if channel not in bounded:
            yield Problem(
                (*key, "epsilon", channel),
                f"no mechanism bounds this channel, whose epsilon is infinite; set one (privacy.{channel} or another), "
                "or remove it",
            )
    if config.privacy.examples is not None and budget.delta is not None and budget.delta < LEAST_SAMPLED_DELTA:
        yield Problem(
            (*key, "delta"),
            f"the accountant of Poisson samples rounds by as much as that; give {LEAST_SAMPLED_DELTA:g} or more",
        )
    if budget.then == "freeze" and config.clustering is not None and config.clustering.by == "fingerprints":
        yield Problem(
            (*key, "then"),
            "a client that is frozen would still be asked for its fingerprint, which spends activations and "
            "fingerprints; use stop",
        )
