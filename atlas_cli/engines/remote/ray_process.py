"""One process of a Ray cluster that serves clients: the actor, and its handle in the server's process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from atlas_cli.engines.remote.arrays import frozen_tensors
from atlas_cli.engines.remote.cluster import unexpected
from atlas_cli.engines.remote.host import Answer, ClientHost, NotFinite, PluginFailed, Who
from atlas_cli.engines.remote.installed_software import InstalledSoftware, require_same_software
from atlas_cli.errors import AtlasError, ConfigError
from atlas_cli.models.frozen.skeleton import put_together
from atlas_cli.models.frozen.weight_format import WeightFormat


class NotReadyError(AtlasError):
    """The cluster did not start a process in time."""


class HostActor:
    """What runs in a process of the cluster; public methods are called by name."""

    def set_up(
        self, config: Any, bases: Mapping[WeightFormat, Any], device: str, threads: int, expected: Mapping[str, str]
    ) -> tuple[InstalledSoftware, dict[WeightFormat, str]]:
        """Build the host; returns the software installed here, and the hashes of the weights held.

        Args:
            config, bases: hold references, which are resolved once it is known that the same software is here.
        """
        import ray

        here = InstalledSoftware.here()
        where = torch.device(device)
        if not here.matches(expected) or (where.type == "cuda" and not torch.cuda.is_available()):
            return here, {}
        halves = {}
        for format, reference in bases.items():
            skeleton, arrays = ray.get(reference)
            halves[format] = put_together(skeleton, frozen_tensors(arrays, where))
        self._host = ClientHost(ray.get(config[0]), halves, where, threads)
        return here, self._host.weights_sha256()

    def call(self, method: str, who: Who, *args: Any) -> Answer | NotFinite | PluginFailed:
        """As ``ClientHost.call``."""
        return self._host.call(method, who, *args)

    def unchanged(self) -> bool:
        """As ``ClientHost.unchanged``."""
        return self._host.unchanged()


class Process:
    """The handle of an actor, from its start on.

    Args:
        ray: the connected module.
        options: CPUs, GPUs and memory that Ray reserves.
        config, bases: references to the config and, by format, to what clients hold of the base.

    Attributes:
        node, pid: where it is, once it is ready.
        known_clients: clients whose examples it has.
        alive: False once it died or was killed, for ``reason``.
        to_replace: it is to be replaced after the round.
        heard: when it last answered (``time.monotonic``); ``answered``: calls whose answers have not been fetched yet.
    """

    def __init__(
        self,
        ray: Any,
        options: Mapping[str, Any],
        config: Any,
        bases: Mapping[WeightFormat, Any],
        device: str,
        threads: int,
    ) -> None:
        self._ray = ray
        # neither restarted nor asked again by Ray: a fresh actor would answer with a state that never was
        remote = ray.remote(max_restarts=0, max_task_retries=0)(HostActor)
        self.actor = remote.options(**options).remote()
        self._set_up = self.actor.set_up.remote([config], bases, device, threads, InstalledSoftware.here().versions)
        self.node, self.pid, self.reason = "", 0, ""
        self.known_clients: set[str] = set()
        self.answered: set[Any] = set()
        self.alive, self.to_replace = True, False
        self.heard = time.monotonic()

    def require_ready(self, deadline: float, weights: Mapping[WeightFormat, str], has_room: Callable[[], bool]) -> None:
        """Wait until the process holds ``weights``, by hash.

        Args:
            deadline: of ``time.monotonic``.
            has_room: whether the cluster still has room for it; nodes that are lost are known to be after a while.

        Raises:
            ConfigError: other software there.
            NotReadyError: it is not there in time.
            AtlasError: it did not start, or holds other weights.
        """
        errors = self._ray.exceptions
        while not self._ray.wait([self._set_up], timeout=1.0)[0]:
            if not has_room() or time.monotonic() > deadline:
                raise NotReadyError(
                    "the cluster has made no further process for clients in time: its nodes are busy or lost; wait, "
                    "ask for fewer (engine.hosts), or raise engine.timeout"
                )
        try:
            there, held = self._ray.get(self._set_up)
        except errors.RayTaskError as error:
            if "No module named" in str(error):
                raise ConfigError(
                    "a node of the cluster lacks atlas, or what it needs, or has another version; install it there",
                    key="engine.address",
                ) from None
            raise unexpected(error, "a process for clients did not start") from error
        except errors.OutOfMemoryError as error:
            raise NotReadyError(
                "a process for clients was ended by Ray while it started, since the memory of its node is nearly full, "
                "with what other programs use there; free some, or ask for fewer processes (engine.hosts)"
            ) from error
        except errors.RayError as error:
            raise NotReadyError(f"a process for clients ended while it started ({type(error).__name__})") from error
        require_same_software(there)
        if not held:
            raise ConfigError(f"{there.node} has a GPU, and its torch none: install one with CUDA", key="engine.gpus")
        if held != weights:
            raise AtlasError(f"the process on {there.node} does not hold the weights that it was sent")
        self.node, self.pid, self.heard = there.node, there.pid, time.monotonic()

    def kill(self, reason: str) -> None:
        """Kill the process."""
        self.alive, self.reason = False, reason
        self._ray.kill(self.actor, no_restart=True)
