"""The logits of round 0, kept for other runs: before training, runs of one seed differ in what comes later only.

``untrained/<key>.safetensors`` in the cache directory has the logits of a test part, batch by batch. The key hashes all
that decides them: the numbers and settings of the base, the adapters and the head, what the model reads, atlas' own
code, and what rounds (libraries, CPU, threads, ``engine``). Figures are computed from logits as ever. The cache is
never required: a file that is missing, damaged or of another key is computed anew.
"""

from __future__ import annotations

import json
import os
import platform
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from atlas_cli.config.schema.engine import EngineConfig
from atlas_cli.data.collate import Batch
from atlas_cli.federation.parties.party import Halves, TrainedModel
from atlas_cli.hashing import sha256_tensors, sha256_text
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.notes import say
from atlas_cli.plugin_code import OWN, are_foreign, code_of
from atlas_cli.storage.cached_folders import cache_dir, keep_newest, replace

FEWEST = 5e9  # parameters times tokens: less is computed in less time than it takes to hash the parties
MOST_OF_PART = 2**24  # bytes; logits over a vocabulary are far more, and not kept
MOST_BYTES = 2**28
_OF_KERNELS = ("ONEDNN_", "DNNL_", "MKL_")

Pass = Callable[[Batch, int], tuple[Tensor, bool]]  # the logits of a batch with its number, and whether all are finite


class UntrainedLogits:
    """Looks round 0 up, and keeps what it had to compute.

    Args:
        engine: of the config; weights in another order round differently.
    """

    def __init__(self, engine: EngineConfig) -> None:
        self.engine = engine.model_dump(mode="json", include={"prepack", "compile"})
        self.read = self.computed = 0
        self._bases: dict[int, str] = {}

    def record(self) -> dict[str, int] | None:
        """For the manifest: the test parts whose logits were read, and those of others that could have been."""
        return {"read": self.read, "computed": self.computed} if self.read or self.computed else None

    @contextmanager
    def around(
        self, passes: AbstractContextManager[Pass], halves: Halves, model: TrainedModel, batches: Sequence[Batch]
    ) -> Iterator[Pass]:
        """Inside the block, what ``passes`` gives for these batches, or what it gave another run."""
        key = self._key(halves, model, batches)
        found = None if key is None else _read(key, len(batches))
        if found is not None:
            self.read += 1
            yield lambda batch, number: (found[number], True)
            return
        self.computed += key is not None
        kept: dict[int, Tensor] | None = {} if key is not None else None
        lock = threading.Lock()  # several passes may be computed at one time
        with passes as logits_of:

            def keeping(batch: Batch, number: int) -> tuple[Tensor, bool]:
                nonlocal kept
                logits, finite = logits_of(batch, number)
                with lock:
                    if kept is not None:
                        kept[number] = logits
                        if not finite or sum(each.nbytes for each in kept.values()) > MOST_OF_PART:
                            kept = None
                return logits, finite

            yield keeping
        if key is not None and kept is not None:
            with suppress(OSError):  # a full disk, or one that cannot be written: it costs time only
                _keep(key, kept)

    def _key(self, halves: Halves, model: TrainedModel, batches: Sequence[Batch]) -> str | None:
        """Hash of all that decides the logits; None, not kept: too little work, a GPU, or code of another package."""
        base, tokens = halves.lower.model, sum(batch.input_ids.numel() for batch in batches)
        if tokens * sum(p.numel() for p in base.parameters()) < FEWEST or are_foreign(model.computed_by(halves)):
            return None
        tensors = {f"head.{name}": each for name, each in _tensors(model.head).items()}
        tensors |= {f"{number} {name}": each for number, b in enumerate(batches) for name, each in b.inputs().items()}
        settings: list[Any] = [_code(), _rounding(), self.engine, halves.cut, repr(model.head)]
        for path, adapter in model.adapters.adapters.items():
            tensors |= {f"{path} {name}": each for name, each in _tensors(adapter).items()}
            tensors |= {f"{path} fixed {number}": each for number, each in enumerate(adapter.fixed())}
            facts = {name: value for name, value in vars(adapter).items() if isinstance(value, str | int | float)}
            del facts["training"]  # which every pass sets
            settings.append([path, type(adapter).__qualname__, sorted(facts.items())])
        for path, pieces in model.adapters.frozen.items():
            tensors |= {f"{path} {n} {k}": each for n, pair in enumerate(pieces) for k, each in enumerate(pair)}
        held = [*tensors.values(), *_tensors(base).values(), *_tensors(halves.upper.model).values()]
        if any(each.device.type != "cpu" for each in held):
            return None
        settings += [self._base(half) for half in (halves.lower, halves.upper)]
        return sha256_text(json.dumps([settings, sha256_tensors(tensors)], sort_keys=True))

    def _base(self, base: FrozenBase) -> str:
        """Hash of a base as it is held; once, as round 0 changes none."""
        if id(base) not in self._bases:
            facts = [base.config.to_json_string(), base.config._attn_implementation, repr(base.format)]
            facts += [type(base.model).__qualname__, base.sha256, base.held_sha256]
            self._bases[id(base)] = json.dumps([*facts, sha256_tensors(_tensors(base.model))])
        return self._bases[id(base)]


def _tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@cache
def _code() -> str:
    """Hash of all files of atlas: a change to any of them computes anew, with no version to count up."""
    return sha256_text(json.dumps(code_of(OWN), sort_keys=True))


def _rounding() -> list[Any]:
    """What the last bits of a sum depend on."""
    kernels = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(_OF_KERNELS))
    cpu = [platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]
    return [torch.__version__, transformers.__version__, *cpu, kernels]


def _path(key: str) -> Path:
    return cache_dir() / "untrained" / f"{key}.safetensors"


def _read(key: str, batches: int) -> list[Tensor] | None:
    """What was kept under a key; None where nothing was, or where it is not what was written."""
    path = _path(key)
    try:
        with safe_open(path, framework="pt") as file:
            facts, found = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts.get("key") != key or facts.get("sha256") != sha256_tensors(found):
            raise ValueError("damaged")
        return [found[str(number)] for number in range(batches)]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, SafetensorError) as error:
        say(f"note: {path} cannot be used ({error}); computing round 0 anew")
        return None


def _keep(key: str, logits: Mapping[int, Tensor]) -> None:
    """Write the logits of a part by the number of the pass; bound the folder."""
    tensors = {str(number): each.contiguous() for number, each in logits.items()}
    path = _path(key)
    replace(path, save(tensors, metadata={"key": key, "sha256": sha256_tensors(tensors)}))
    keep_newest(path.parent.glob("*.safetensors"), MOST_BYTES)
