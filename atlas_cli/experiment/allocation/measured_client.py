"""Run one client of a config for real, alone in a process of its own, and see how much memory it takes.

``measure_client`` starts ``python -m atlas_cli.experiment.allocation.measured_client``, which prints one line of JSON.
Weights are random numbers: only their size matters, and nothing else of the model has to be loaded or held. The process
has taken a step of a tiny model before, so that the code of torch is in memory, and its allocator gives back what is
freed: what is left to count belongs to the client.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from atlas_cli.config.load import load_config
from atlas_cli.errors import AtlasError
from atlas_cli.federation.client_state.new_client import needs_output, new_client
from atlas_cli.federation.parties.auxiliary_client import AuxiliaryClient
from atlas_cli.federation.parties.party import Party
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.unsplit_client import UnsplitClient
from atlas_cli.models.block_config import of_blocks
from atlas_cli.models.files.rotary_tables import rotary_tables
from atlas_cli.models.frozen.gelu import fuse_gelu
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.frozen.meta_model import meta_model
from atlas_cli.models.frozen.row_embedding import by_rows, row_embeddings
from atlas_cli.planning.alike import Alike
from atlas_cli.planning.memory.saved_trace import LiveBytes
from atlas_cli.planning.memory_of_plan import build_task_of
from atlas_cli.planning.plan import Plan, make_plan
from atlas_cli.planning.round_bytes import Shape
from atlas_cli.privacy.at_the_cut import bottleneck_noise
from atlas_cli.runs.parts import peak_resident_bytes
from atlas_cli.wire.codecs.contract import VALUES
from atlas_cli.wire.messages import Features, Gradients, HiddenStates

M = TypeVar("M", bound=HiddenStates)

STEPS = 2  # the first is taken without moments
# glibc keeps freed blocks of up to 32 MiB, as if they were still in use; other systems do not know these names
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class ClientMemory:
    """Measured bytes of a client that took steps alone.

    Attributes:
        parts: as in memory.json.
        peak: of its tensors at one moment.
        resident: peak resident memory of its process, less that of the interpreter with torch loaded.
    """

    parts: dict[str, Any]
    peak: int
    resident: int


def measure_client(
    config: Path,
    overrides: Sequence[str],
    client: str,
    shape: Shape,
    classes: Sequence[str] = (),
    rows: int | None = None,
) -> ClientMemory:
    """Take two steps with a client of a config, in a fresh process.

    Args:
        config, overrides: as for ``load_config``.
        classes: of its task group, where its head is on the client.
        rows: of the token embedding, where it does not hold the whole table.

    Raises:
        AtlasError: the process failed; says with which error.
    """
    command = [sys.executable, "-m", "atlas_cli.experiment.allocation.measured_client", str(config), client, *overrides]
    command += ["--shape", str(shape.batch), str(shape.tokens), str(int(shape.padded)), "--classes", str(len(classes))]
    command += [] if rows is None else ["--rows", str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **_ALLOCATOR})
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}, out of memory?"]
        raise AtlasError(f"client {client} could not be measured: {lines[-1]}")
    return ClientMemory(**json.loads(done.stdout.splitlines()[-1]))


def take_steps(
    plan: Plan, name: str, shape: Shape, classes: Sequence[str], rows: int | None = None, steps: int = STEPS
) -> ClientMemory:
    """Take the steps in this process; the resident peak then includes whatever the process did before."""
    torch.manual_seed(plan.config.seed)
    client = plan.by_name[name]
    quantization = client.format.quantization
    base, lm_head = meta_model(plan.hf_config, plan.family, getattr(torch, client.dtype), quantization)
    split = plan.config.mode == "split-federated"
    if plan.config.model.fused_gelu:
        fuse_gelu(base)
    before = _start_of_peak()
    facts = plan.family, plan.config.model.name, "random", ""
    own = FrozenBase(base, lm_head, *facts, quantization=quantization)
    tokens = None if rows is None else torch.arange(rows)
    if tokens is not None:
        own = by_rows(own, tokens, None)
    held: list[nn.Module] = [own.client_half(client.cut) if split else own.model]
    if own.lm_head is not None and needs_output(plan.config, [client]):
        held.append(own.lm_head)
    _fill(held)
    if tokens is not None:
        next(row_embeddings(held[0])).tokens.copy_(tokens)
    task = build_task_of(plan, client.task_group, classes)
    party = new_client(plan.config, client, own, task, plan.above(client.cut), torch.device("cpu"))
    party.term = party.control = None  # nothing is delivered to it that a term could start from
    for path, rank in plan.beside(client).items():
        d_in, d_out = plan.sizes[path]
        party.adapters.frozen[path] = [(torch.zeros(rank, d_in), torch.zeros(d_out, rank))]
    if plan.config.privacy.denoise is not None:  # whose noise is not counted, but what the denoiser reads of it
        party.privacy.denoises, party.privacy.activations = True, lambda activations, *when: activations.clone()
    party.privacy.bottleneck = bottleneck_noise(plan.config.privacy, plan.config.seed, name)
    usage = party.measure(tokens)
    weights = [*held[0].parameters(), *held[0].buffers(), *party.trained(), *party.output_embedding()]
    weights += party.adapters.held_frozen()
    owned = usage.frozen_weights + usage.adapters + usage.heads
    with LiveBytes(weights) as live:
        for _ in range(steps):
            _step(plan, party, name, shape, rows or int(plan.hf_config.vocab_size))
    return ClientMemory(usage.record(), owned + live.peak, _peak() - before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the child process."""
    parser = argparse.ArgumentParser(
        prog="python -m atlas_cli.experiment.allocation.measured_client", description=__doc__
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("client")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--shape", type=int, nargs=3, required=True, metavar=("BATCH", "TOKENS", "PADDED"))
    parser.add_argument("--classes", type=int, default=0)
    parser.add_argument("--rows", type=int)
    given = parser.parse_args(arguments)
    try:
        plan = make_plan(load_config(given.config, given.overrides).config)
        if plan.config.threads is not None:
            torch.set_num_threads(plan.config.threads)
        batch, tokens, padded = given.shape
        classes = [str(c) for c in range(given.classes or 2)]
        few = None if given.rows is None else 8
        take_steps(_tiny(plan, given.client), given.client, Shape(2, 4, bool(padded)), classes, few)
        done = take_steps(plan, given.client, Shape(batch, tokens, bool(padded)), classes, given.rows)
    except AtlasError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps({"parts": done.parts, "peak": done.peak, "resident": done.resident}))
    return 0


def _step(plan: Plan, party: Party, name: str, shape: Shape, vocabulary: int) -> None:
    ids = torch.randint(0, vocabulary, (shape.batch, shape.tokens))
    mask = torch.ones_like(ids)
    if shape.padded:
        mask[0, -1] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    if isinstance(party, UnsplitClient):
        party.train_on(batch, party.task.blank_labels(shape.batch, shape.tokens), 1, 0)
        return
    assert isinstance(party, SplitClient)
    wire, numbers = party.wire, range(shape.batch)
    if isinstance(party, AuxiliaryClient):
        assert party.task is not None
        sent = party.learn(batch, party.task.blank_labels(shape.batch, shape.tokens), 1, 0, 1e-3)
        if sent is not None:
            wire.encode(wire.number(sent, numbers), (1, 0))
        return
    message = party.forward(batch, 1, 0, None)
    wire.encode(wire.number(message, numbers), (1, 0))
    if not party.trained():
        return
    width = message.activations
    if party.task is not None and party.head is not None:
        labels = party.task.blank_labels(shape.batch, shape.tokens)
        features = torch.randn_like(width, dtype=getattr(torch, plan.config.model.dtype))
        party.answer_features(_coded(party, Features(name, features)), labels)
    down = Gradients(name, torch.randn_like(width) / width.numel())
    party.apply_gradients(wire.decode(_coded(party, down)).gradients)


def _coded(party: SplitClient, message: M) -> M:
    """A message that comes down, as it crosses the wire: of zeros, where it has a codec."""
    wire, (batch, tokens, _) = party.wire, getattr(message, message.states).shape
    if message.kind not in wire.codecs:
        return message
    seen = sum(wire.memory.known(f"received/{message.kind}", range(batch)))
    layout = wire.layout(message.kind, seen, batch - seen, tokens)
    parts = {name: torch.zeros(part.shape, dtype=part.dtype) for name, part in layout.items()}
    return replace(message, **{message.states: parts.pop(VALUES), "parts": parts})  # type: ignore[arg-type]


def _tiny(plan: Plan, name: str) -> Plan:
    """The same client of a model that takes no memory: one block, eight numbers a head."""
    config = of_blocks(plan.hf_config, [0])
    small = {"vocab_size": 32, "hidden_size": 16, "num_attention_heads": 2, "head_dim": 8}
    small |= {"num_key_value_heads": 1, "intermediate_size": 16, "n_inner": 16, "hidden_dim": 16}
    small |= {"num_kv_heads": 1, "ffn_hidden_size": 16}
    for key, value in small.items():
        computed = isinstance(getattr(type(config), key, None), property)  # from the others
        if getattr(config, key, None) is not None and not computed:
            setattr(config, key, value)
    for table in rotary_tables(getattr(config, "rope_parameters", None)).values():
        table["rope_type"] = "default"  # others may have a factor for each pair of a head's numbers
    if config.pad_token_id is not None:
        config.pad_token_id = 0
    client = plan.by_name[name]
    first = f"{plan.family.blocks}.0."
    ranks = dict.fromkeys((path for path in plan.features if path.startswith(first)), 1)
    client = replace(client, cut=1, ranks=ranks if client.ranks else {})
    return replace(
        plan, hf_config=config, hidden_size=16, n_layers=1, cut=1, clients=Alike.single([client]), upper_ranks={}
    )


def _fill(modules: Sequence[nn.Module]) -> None:
    """Random numbers for tensors that have no storage yet, zeros for integers; tied tensors stay tied."""
    made: dict[int, Tensor] = {}

    def real(tensor: Tensor) -> Tensor:
        if not tensor.is_meta:
            return tensor
        if id(tensor) not in made:
            new = torch.empty(tensor.shape, dtype=tensor.dtype)
            new = new.normal_(0, 0.02) if new.is_floating_point() else new.zero_()
            made[id(tensor)] = nn.Parameter(new, requires_grad=False) if isinstance(tensor, nn.Parameter) else new
        return made[id(tensor)]

    for module in (m for root in modules for m in root.modules()):
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: real(t) for name, t in tensors.items() if t is not None})  # type: ignore[misc]


def _start_of_peak() -> int:
    """Forget the peak so far where the system can (Linux), and return what is resident now."""
    try:
        _CLEAR.write_text("5", encoding="ascii", newline="\n")
    except OSError:
        return _peak_of_system()
    return _status("VmRSS")


def _peak() -> int:
    # getrusage also counts the process that started this one
    return _status("VmHWM") if _CLEAR.exists() else _peak_of_system()


def _peak_of_system() -> int:
    peak = peak_resident_bytes()
    if peak is None:
        raise AtlasError("this system does not tell the peak memory of a process; leave --measure out")
    return peak


def _status(key: str) -> int:
    line = next(line for line in _STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
