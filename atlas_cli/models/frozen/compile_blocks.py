"""torch.compile for the largest parts of a block without an adapted layer.

Adapters are attached anew for every client and step, so a whole block would be compiled anew each time. Its other
parts (a feed-forward network with its norm, say) are the same for all, and one graph serves all blocks and lengths.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from importlib.util import find_spec

import torch
from torch import nn

from atlas_cli.errors import ConfigError
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.halves.split import blocks_of


def compile_blocks(base: FrozenBase, adapted: Collection[str], backend: str = "inductor") -> int:
    """Compile, in place and lazily, the modules of a base's blocks without adapters; return their number.

    Args:
        adapted: paths within a block of the layers that get adapters (``placement.adapted_names``).
    """
    found = [part for block in blocks_of(base.model, base.family) for part in _untouched(block, adapted)]
    for part in found:
        part.compile(dynamic=True, backend=backend)  # lengths differ from batch to batch
    return len(found)


def require_compiler(device: torch.device) -> None:
    """Check that torch.compile has what it needs on a device: a C++ compiler on a CPU, triton on CUDA.

    Raises:
        ConfigError: it is missing.
    """
    if device.type == "cuda":
        if find_spec("triton") is None:
            raise ConfigError("needs the package triton on CUDA; install it or set false", key="engine.compile")
        return
    named = os.environ.get("CXX")
    known = [named] if named else ["cl"] if os.name == "nt" else ["g++", "clang++"]
    if not any(shutil.which(name) for name in known):
        raise ConfigError(
            f"needs a C++ compiler, and {' or '.join(known)} is not on the PATH; install one, name it in CXX, or set "
            "false",
            key="engine.compile",
        )


def _untouched(module: nn.Module, adapted: Collection[str]) -> Iterator[nn.Module]:
    for name, child in module.named_children():
        below = [path.removeprefix(f"{name}.") for path in adapted if path == name or path.startswith(f"{name}.")]
        if below:
            yield from _untouched(child, below)
        elif next(child.children(), None) is not None:  # a layer by itself has nothing to fuse
            yield child
