"""Checks of ``wire`` against the rest of a config."""

from __future__ import annotations

from collections.abc import Iterator

from atlas_cli.config.problems import Problem
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.schema.wire import WireConfig
from atlas_cli.config.strict_yaml import KeyPath


def wire_problems(config: ExperimentConfig) -> Iterator[Problem]:
    """Codecs act on what crosses a split, and on what is merged and delivered."""
    places: dict[KeyPath, WireConfig] = {("wire",): config.wire}
    places |= {("clients", name, "wire"): each.wire for name, each in config.clients.items()}
    for path, wire in places.items():
        of_steps = dict.fromkeys(key for key, _ in wire.by_kind().values())
        for key in of_steps if config.mode != "split-federated" else ():
            yield Problem((*path, key), f"acts on what crosses a split, and mode is {config.mode}; remove it")
        if wire.header == "compact" and config.mode in ("local-only", "centralized"):
            yield Problem((*path, "header"), f"acts on what is sent, and mode is {config.mode}; remove it")
        yield from _problems_of_parameters(config, path, wire)
        for kind in ("activations", "gradients", "features", "feature_gradients"):
            if (asked := getattr(wire, kind)) is not None and asked.changed_rows:
                yield Problem((*path, kind, "changed_rows"), "is of adapters and deliveries; remove it")
        for kind in ("features", "feature_gradients"):
            if getattr(wire, kind) is not None and config.training.labels == "server":
                yield Problem((*path, kind), "is sent with training.labels: client alone; remove it")
        for kind in ("activations", "features"):
            if (asked := getattr(wire, kind)) is not None and asked.feedback:
                yield Problem(
                    (*path, kind, "feedback"), "is of gradients and adapters; take codec: delta, or remove it"
                )
        for kind in ("gradients", "feature_gradients"):
            if (asked := getattr(wire, kind)) is not None and asked.feedback and asked.codec == "none":
                yield Problem((*path, kind, "feedback"), "has nothing to add: codec none loses nothing; remove it")
    for name, client in config.clients.items():
        if client.wire.gradients is not None and client.learns in ("frozen", "auxiliary"):
            path = ("clients", name, "wire", "gradients")
            yield Problem(path, f"no gradient comes back to a client that learns: {client.learns}; remove it")
        if client.learns == "frozen" and not all(each.learns == "frozen" for each in config.clients.values()):
            for kind in client.wire.of_parameters():
                yield Problem(("clients", name, "wire", kind), "a frozen client has no adapters; remove it")


def _problems_of_parameters(config: ExperimentConfig, path: KeyPath, wire: WireConfig) -> Iterator[Problem]:
    """Of ``adapters`` and ``deliveries``."""
    updates = config.privacy.updates
    for kind in wire.of_parameters():
        if config.mode in ("local-only", "centralized"):
            yield Problem((*path, kind), f"acts on what is merged, and mode is {config.mode}; remove it")
        if all(client.learns == "frozen" for client in config.clients.values()):
            yield Problem((*path, kind), "acts on what is merged, and no client has adapters; remove it")
        if config.training.asynchrony is not None:
            yield Problem(
                (*path, kind),
                "is a change of what both ends know, and with training.asynchrony the server keeps no record of what "
                "each client began with; remove it",
            )
        if updates is not None and updates.where == "server":
            yield Problem(
                (*path, kind),
                "may make a clipped update larger than its clip, by which the server's noise is measured; remove it, "
                "or set privacy.updates.where: client",
            )
    for kind in ("adapters", "deliveries"):
        if (asked := getattr(wire, kind)) is not None and asked.changed_rows and asked.codec == "none":
            yield Problem((*path, kind, "changed_rows"), "is of what a codec sends, and codec is none; remove it")
    if (up := wire.adapters) is not None and up.feedback and up.codec == "none":
        yield Problem((*path, "adapters", "feedback"), "has nothing to add: codec none loses nothing; remove it")
    if (down := wire.deliveries) is not None and down.feedback:
        yield Problem(
            (*path, "deliveries", "feedback"),
            "is not needed: a delivery is a change of what the client holds, so that what the last one lost is part of "
            "it; remove it",
        )
