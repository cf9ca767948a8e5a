"""A Ray cluster: one started on this machine for the duration of a run, or one that runs already.

Whoever has a cluster's token can run any code on its nodes: a cluster is one trust domain. One that is started here
gets a token of its own and listens on loopback alone; one that runs already is joined with the token from the
environment or from Ray's own file.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from unittest import mock

from atlas_cli.errors import AtlasError, ConfigError
from atlas_cli.extras import install_command

CONNECT, ANSWER = 10, 60  # seconds that a node may take to open a connection, and a cluster to let a process join
LOOPBACK = "127.0.0.1"


def require_ray() -> Any:
    """The module ``ray``, without its telemetry.

    Raises:
        ConfigError: it is not installed.
    """
    require_installed()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    # a process that asks for no GPU sees none (Ray warns that this will be the default)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    import ray

    return ray


def require_installed() -> None:
    """Check that Ray is installed, without importing it.

    Raises:
        ConfigError: it is not installed.
    """
    if find_spec("ray") is None:
        raise ConfigError(
            f"ray is not installed: {install_command('ray')}, or use engine.name=in-process", key="engine.name"
        )


@contextmanager
def connected(address: str | None, processors: int) -> Iterator[Any]:
    """The module ``ray``, connected inside the block.

    Args:
        address: of a cluster, host:port, or "auto" for the one of this machine; None starts one that ends with the
            block. Where this process is connected already, that stays.
        processors: how many CPUs Ray is to believe that a cluster started here has, if it has fewer.

    Raises:
        ConfigError: nothing answers there, or not to this token.
    """
    ray = require_ray()
    if ray.is_initialized():
        yield ray
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    with _handlers_kept(), _socket_paths_explained():
        if address is None:
            _start(ray, processors, quiet)
        else:
            _join(ray, address, quiet)
    try:
        yield ray
    finally:
        with _handlers_kept():
            ray.shutdown()


def _start(ray: Any, processors: int, quiet: Mapping[str, Any]) -> None:
    if os.environ["RAY_AUTH_MODE"] == "token" and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Ray takes the machine's outer address instead of the loopback one, and listens on all of them then
    with mock.patch("ray._private.services.resolve_ip_for_localhost", lambda host: host):
        ray.init(
            address="local",
            num_cpus=max(processors, os.cpu_count() or 1),
            include_dashboard=False,
            _node_ip_address=LOOPBACK,
            **quiet,
        )


def _join(ray: Any, address: str, quiet: Mapping[str, Any]) -> None:
    if address != "auto":
        _require_listening(address)
    _require_answering(address)
    ray.init(address=address, **quiet)


def _require_answering(address: str) -> None:
    """Let another process connect first: Ray waits for minutes, or ends its process, where something is wrong."""
    code = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False)"
    try:
        tried = subprocess.run([sys.executable, "-c", code, address], capture_output=True, text=True, timeout=ANSWER)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"no Ray cluster answers at {address} within {ANSWER} s", key="engine.address") from None
    if tried.returncode == 0:
        return
    said = [line for line in tried.stderr.splitlines() if line.strip()] or ["it ended without a word"]
    if "InvalidAuthToken" in tried.stderr or "AuthenticationError" in tried.stderr:
        why = (
            f"the cluster at {address} does not take this token; set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the one "
            "that its nodes were started with (RAY_AUTH_MODE=disabled for a cluster without)"
        )
    elif address == "auto" and "ConnectionError" in tried.stderr:
        why = (
            "no cluster of this machine was found; start one with ray start --head, give its host:port, or leave "
            "engine.address out to start one for the run"
        )
    else:
        why = f"cannot join the cluster at {address}: {' '.join(said[-1].split())[:300]}"
    raise ConfigError(why, key="engine.address")


def _require_listening(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"nothing answers at {address} ({why}); start the cluster with ray start --head --port={port}",
            key="engine.address",
        ) from None


def room(ray: Any, needed: Mapping[str, float]) -> int:
    """How many processes with these needs fit on the nodes of an idle cluster."""
    return sum(_fitting(node, needed) for node in nodes(ray))


def require_room(ray: Any, needed: Mapping[str, float], wanted: int) -> None:
    """Check that a cluster has the resources asked for; Ray itself would wait for ever.

    Raises:
        ConfigError: names what is short, and what each node has.
    """
    if room(ray, needed) >= wanted:
        return
    keys = {"GPU": "engine.gpus", "CPU": "engine.cpus", "memory": "engine.name"}
    short = next((k for k in keys if all(node["Resources"].get(k, 0) < needed.get(k, 0) for node in nodes(ray))), None)
    has = "; ".join(f"{node['NodeManagerAddress']} has {_words(node['Resources'])}" for node in nodes(ray)[:4])
    asked = f"{wanted} process{'es' * (wanted > 1)} for clients, each with {_words(needed)}"
    raise ConfigError(f"no room for {asked}: {has}", key=keys[short] if short else "engine.hosts")


def nodes(ray: Any) -> list[dict[str, Any]]:
    """The nodes that are alive."""
    return [node for node in ray.nodes() if node["Alive"]]


def _fitting(node: Mapping[str, Any], needed: Mapping[str, float]) -> int:
    return min(int(node["Resources"].get(what, 0) // amount) for what, amount in needed.items() if amount > 0)


def _words(resources: Mapping[str, float]) -> str:
    shown = [f"{resources.get(what, 0):g} {what}" for what in ("CPU", "GPU")]
    return ", ".join([*shown, f"{resources.get('memory', 0) / 2**30:.1f} GiB"])


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray installs a handler for SIGTERM of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _socket_paths_explained() -> Iterator[None]:
    """Socket paths may have about 107 bytes, and Ray's lie deep in the folder of temporary files."""
    try:
        yield
    except OSError as error:
        if "AF_UNIX" not in str(error):
            raise
        advice = "set RAY_TMPDIR to a folder with a short path, such as /tmp"
        raise ConfigError(f"{advice}: {_first_line(error)}", key="engine.name") from None


def unexpected(error: Exception, what: str) -> AtlasError:
    """Any other error of Ray as an AtlasError."""
    return AtlasError(f"{what}: {type(error).__name__}: {_first_line(error)}")
