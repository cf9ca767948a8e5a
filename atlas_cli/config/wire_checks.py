"""Checks of ``wire`` against the rest of a config."""

from __future__ import annotations

from collections.abc import Iterator

from atlas_cli.config.problems import Problem
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.config.schema.wire import WireConfig
from atlas_cli.config.strict_yaml import KeyPath


def wire_problems(config: ExperimentConfig) -> Iterator[Problem]:
    """Codecs act on what crosses a split."""
    places: dict[KeyPath, WireConfig] = {("wire",): config.wire}
    places |= {("clients", name, "wire"): each.wire for name, each in config.clients.items()}
    for path, wire in places.items():
        if wire.acts and config.mode != "split-federated":
            yield Problem(path, f"acts on what crosses a split, and mode is {config.mode}; remove it")
        for kind in ("features", "feature_gradients"):
            if getattr(wire, kind) is not None and config.training.labels == "server":
                yield Problem((*path, kind), "is sent with training.labels: client alone; remove it")
        for kind in ("activations", "features"):
            if (asked := getattr(wire, kind)) is not None and asked.feedback:
                yield Problem((*path, kind, "feedback"), "is of gradients; take codec: delta, or remove it")
        for kind in ("gradients", "feature_gradients"):
            if (asked := getattr(wire, kind)) is not None and asked.feedback and asked.codec == "none":
                yield Problem((*path, kind, "feedback"), "has nothing to add: codec none loses nothing; remove it")
    for name, client in config.clients.items():
        if client.wire.gradients is not None and client.learns in ("frozen", "auxiliary"):
            path = ("clients", name, "wire", "gradients")
            yield Problem(path, f"no gradient comes back to a client that learns: {client.learns}; remove it")
