"""The manifest: everything that is needed to describe a run and to repeat it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from atlas_cli.hashing import sha256_text
from atlas_cli.package_folder import PACKAGE_FOLDER
from atlas_cli.runs import parts
from atlas_cli.storage.secrets import mask, mask_command

Status = Literal["finished", "failed", "interrupted"]

_PACKAGES = {"atlas": "atlas-cli"} | {
    name: name
    for name in ("torch", "transformers", "numpy", "safetensors", "pydantic", "tokenizers", "datasets", "peft")
}


def start_manifest(
    config_dict: Mapping[str, Any],
    command: Sequence[str],
    seed: int,
    device: str,
    threads: int,
    model: Mapping[str, Any],
    data: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest of a run that starts now; status "running" until ``end_manifest``.

    Args:
        config_dict: the resolved config, as JSON types; kept whole, so that a resumed run can be compared with it.
        command: argv; secrets are masked.
        device: as torch names it, with the model of the accelerator where there is one.
        threads: CPU threads of torch.
        model: ``{name, source, sha256, n_parameters, init}``.
        data: by task group ``{origin, sha256, train, test, classes}``; train and test count examples.
    """
    config = json.loads(json.dumps(config_dict))  # keys as the file will hold them: rank {0: 8} is {"0": 8}
    manifest = {
        "status": "running",
        "name": config.get("name"),
        "started": datetime.now(UTC).isoformat(),
        "ended": None,
        "duration_s": None,
        "error": None,
        "command": mask_command(command),
        "seed": seed,
        "device": device,
        "threads": threads,
        "versions": {"python": platform.python_version()} | {key: _version(name) for key, name in _PACKAGES.items()},
        "git": _git(),
        "platform": this_platform(),
        "model": dict(model),
        "data": {group: dict(facts) for group, facts in data.items()},
        "config": config,
        "config_sha256": sha256_text(json.dumps(config, sort_keys=True)),
    }
    return {**manifest, "parts": [parts.first_part(manifest)]}


def end_manifest(
    manifest: Mapping[str, Any], status: Status, error: str | None = None, engine: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A copy with the status and time of the run's end, and the totals over all its parts.

    Args:
        engine: figures of the engine in the part that now ends.
    """
    ended = parts.end_parts(manifest["parts"], status, engine or {})
    return {
        **manifest,
        "status": status,
        "ended": ended[-1]["ended"],
        "error": error and mask(error),
        **parts.totals(ended),
        "parts": ended,
    }


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Commit of the atlas checkout; of the working directory when atlas is installed from a wheel; else None."""
    home = PACKAGE_FOLDER.parent
    top = _git_output(home, "rev-parse", "--show-toplevel")
    # A wheel in a virtual environment lies inside somebody's repository, too: that commit says nothing about atlas.
    is_checkout = top is not None and Path(top).resolve() == home
    folder, untracked = (home, "normal") if is_checkout else (Path.cwd(), "no")
    commit = _git_output(folder, "rev-parse", "--verify", "HEAD")
    changes = _git_output(folder, "status", "--porcelain", f"--untracked-files={untracked}")
    if commit is None or changes is None:
        return None
    return {"of": "atlas" if is_checkout else "working directory", "commit": commit, "dirty": bool(changes)}


def _git_output(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, env=environment, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return os.fsdecode(done.stdout).strip()  # a path as the system has it, in UTF-8 on Windows


def this_platform() -> dict[str, Any]:
    """The operating system and the processor, as manifests describe them."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "os": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": usable,
    }


def _cpu_model() -> str | None:
    try:
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)
    except (OSError, subprocess.SubprocessError):
        return platform.processor() or None
