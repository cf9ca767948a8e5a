"""What ``atlas doctor`` finds out about this installation and this machine, as plain data."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from atlas_cli.extras import DISTRIBUTION, EXTRAS, install_command
from atlas_cli.package_folder import PACKAGE_FOLDER

LEAST_DISK = 200 * 10**6  # bytes: a small run with its checkpoints and its report
SLOW = 3.0  # bfloat16 against float32, in time

Facts = dict[str, Any]


def installation() -> Facts:
    """Versions of atlas and of what it needs, what of that does not fit, and which extras lack which packages."""
    needed = [Requirement(text) for text in _requirements()]
    always = [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    extras = {}
    for name, what in EXTRAS.items():
        own = [each for each in needed if each not in always and each.marker and each.marker.evaluate({"extra": name})]
        missing = [str(each.name) for each in own if not _fits(each)]
        extras[name] = {"what": what, "missing": missing, "install": install_command(name)}
    return {
        "atlas": {"version": _version(DISTRIBUTION), "folder": str(PACKAGE_FOLDER)},
        "versions": {each.name: _version(each.name) for each in always},
        "unfit": {f"{each.name}{each.specifier}": _version(each.name) for each in always if not _fits(each)},
        "extras": extras,
        "pip": find_spec("pip") is not None,
    }


def computing() -> Facts:
    """System, devices, threads, free memory and network, and what would be slow or fail with them."""
    import torch

    from atlas_cli.models.files.resolve import hub_reachable
    from atlas_cli.planning.devices.devices import bfloat16_slowdown, free_memory
    from atlas_cli.runs.manifest import this_platform

    devices: list[Facts] = [{"name": "cpu"}]
    for i in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(i)
        devices.append({"name": f"cuda:{i}", "model": found.name, "memory": found.total_memory})
        devices[-1]["bfloat16"] = (
            torch.version.hip is not None or found.major >= 8
        )  # units came with compute capability 8
    if torch.backends.mps.is_available():
        devices.append({"name": "mps"})
    return {
        "python": platform.python_version(),
        "platform": this_platform(),
        "devices": devices,
        "threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "free_memory": free_memory(),
        "bfloat16": {"cpu_slowdown": round(bfloat16_slowdown(), 2)},
        "compile": {device["name"]: _compile_problem(device["name"]) for device in devices},
        "hub_reachable": hub_reachable(),
    }


def places() -> Facts:
    """Where files go: the working directory and the cache, with what is free there and whether they can be written."""
    from atlas_cli.storage.cached_folders import cache_dir

    return {"runs": _place(Path.cwd()), "cache": _place(cache_dir())}


def problems(facts: Facts) -> Iterator[str]:
    """What prevents runs, each with what to do."""
    for needed, found in facts["unfit"].items():
        has = f"{found} is installed" if found else "is not installed"
        yield f'{needed} is needed, and {has}: pip install "{needed}"'
    for name, place in facts.get("places", {}).items():
        if not place["writable"]:
            yield f"{place['folder']} cannot be written" + "; set ATLAS_CACHE to another folder" * (name == "cache")
        elif place["free"] < LEAST_DISK:
            yield f"{place['free']:,} bytes are free for {place['folder']}, and a run needs {LEAST_DISK:,}; free some"


def warnings(facts: Facts) -> Iterator[str]:
    """What works, but slowly or in part."""
    if not facts["pip"]:
        yield "pip is not in this environment, so packaged models and corpora cannot be fetched; python -m ensurepip"
    times = facts["bfloat16"]["cpu_slowdown"]
    if times >= SLOW:
        yield (
            f"bfloat16 (training.autocast, model.dtype, a client's dtype) is {times:.0f} times slower than float32 on"
            " this CPU, which has no units for it; float32 is the default"
        )
    for device in facts["devices"]:
        if not device.get("bfloat16", True):
            yield f"{device['name']} ({device['model']}) has no units for bfloat16; float32 is the default"
    for device, problem in facts["compile"].items():
        if problem is not None:
            yield f"engine.compile on {device} {problem}"


def _requirements() -> list[str]:
    try:
        return requires(DISTRIBUTION) or []
    except PackageNotFoundError:  # the source folder on PYTHONPATH
        return []


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _fits(needed: Requirement) -> bool:
    found = _version(needed.name)
    return found is not None and needed.specifier.contains(found, prereleases=True)


def _compile_problem(device: str) -> str | None:
    import torch

    from atlas_cli.errors import ConfigError
    from atlas_cli.models.frozen.compile_blocks import require_compiler

    try:
        require_compiler(torch.device(device))
    except ConfigError as error:
        return error.message
    return None


def _place(folder: Path) -> Facts:
    """Of a folder that need not exist yet: its first parent that does is looked at."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            writable = True
    except OSError:
        writable = False
    return {"folder": str(folder), "writable": writable, "free": shutil.disk_usage(there).free}
