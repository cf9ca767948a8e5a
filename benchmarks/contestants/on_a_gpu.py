"""What ``benchmarks/accelerator.py`` measures: atlas, its options, and others, each by itself on one device."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from atlas_cli.engines import passes
from atlas_cli.engines.in_process import local_steps
from atlas_cli.experiment.round_loop import set_up
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.build import build
from atlas_cli.federation.federation import Federation
from atlas_cli.wire.ledger import Ledger
from contestants.atlas import FIRST, atlas_steps
from contestants.experiment import Arena, Experiment
from contestants.made_up import write_model, write_texts
from contestants.naive import NaiveSplit
from contestants.places import Part, Place, Size
from contestants.products import Products
from contestants.turns import Contestant
from contestants.unsplit import trainer_steps

FLOAT32, BFLOAT16 = "float32", "bfloat16"
WARM_UP, LEAST, MOST = 3, 3, 200  # steps
EQUAL = {"losses": 1e-5, "adapters": 1e-3}  # at most, as a share; of adapters, of how far they moved
LONG_PASS = 8192  # tokens


class SkippedError(Exception):
    """There is no such thing here; says why."""


def parts(size: Size, place: Place, only: Sequence[str], in_time: Callable[[], bool]) -> Iterator[Part]:
    """Every part of a size, one after another; one that fails is a part with the reason."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(size, place, Path(folder))
        for dtype, name, measure in bench.plan():
            if only and not any(text in name for text in only):
                continue
            part = Part(size.name, dtype, name)
            if not in_time():
                yield replace(part, status="no time", note="--limit was over")
                continue
            try:
                yield replace(part, **measure())
            except SkippedError as error:
                yield replace(part, status="skipped", note=str(error))
            except Exception as error:  # whatever it is, others can still be measured
                said = " ".join(f"{type(error).__name__}: {error}".split())
                yield replace(part, status="failed", note=f"{said:.300}")


@dataclass
class Bench:
    """One size on one device.

    Args:
        folder: a scratch folder of its own.
    """

    size: Size
    place: Place
    folder: Path
    _rates: dict[str, float] = field(default_factory=dict)
    _arenas: dict[str, Arena] = field(default_factory=dict)

    def plan(self) -> Iterator[tuple[str, str, Callable[[], dict[str, Any]]]]:
        """Dtype, name and measurement of every part, what matters most first."""
        for dtype in (FLOAT32, BFLOAT16):
            yield dtype, "one large matrix product", lambda d=dtype: self.product(d)
        yield FLOAT32, "atlas, beside the CPU", self.beside_the_cpu
        for dtype in (FLOAT32, BFLOAT16):
            yield dtype, "atlas", lambda d=dtype: self.fused(d)
            yield dtype, "atlas, one client after another", lambda d=dtype: self.atlas(d, "engine.fuse=off")
            yield dtype, "PEFT + Trainer, unsplit", lambda d=dtype: self.trainer(d)
            yield dtype, "naive split", lambda d=dtype: self.naive(d)
        autocast = (FLOAT32, "training.autocast=bfloat16")
        yield BFLOAT16, "atlas, training.autocast", lambda: self.atlas(*autocast, rate=BFLOAT16)
        yield BFLOAT16, f"atlas, passes of {LONG_PASS:,} tokens", lambda: self.long_passes(BFLOAT16)
        yield BFLOAT16, "atlas, engine.pinned", lambda: self.atlas(BFLOAT16, "engine.pinned=true")
        for dtype in (FLOAT32, BFLOAT16):
            yield dtype, "atlas, engine.cuda_graphs", lambda d=dtype: self.replayed(d)
        for kind in ("nf4", "int8"):
            yield BFLOAT16, f"atlas, {kind}", lambda k=kind: self.quantised(BFLOAT16, k)
        yield BFLOAT16, "atlas, rows of the embedding", lambda: self.atlas(BFLOAT16, "clients.client.embedding=rows")
        upper = f"clients.client.rank={{{', '.join(f'{i}: 8' for i in range(self.cut // 2, self.cut))}}}"
        cached = (upper, "engine.prefix_cache=4 GiB")
        yield BFLOAT16, "atlas, adapters in upper blocks", lambda: self.atlas(BFLOAT16, upper, flops=False)
        yield BFLOAT16, "the same, engine.prefix_cache", lambda: self.atlas(BFLOAT16, *cached, flops=False)
        yield BFLOAT16, "atlas, engine.compile", lambda: self.compiled(BFLOAT16)

    @property
    def cut(self) -> int:
        """In the middle."""
        return self.size.blocks // 2

    @cached_property
    def model(self) -> Path:
        """A folder with random weights and a tokenizer."""
        return write_model(self.folder / "model", self.size.config, self.place.device)

    @cached_property
    def texts(self) -> Path:
        """A file of made-up texts."""
        count = self.size.clients * self.size.batch
        return write_texts(self.folder / "texts.jsonl", self.size.config.vocab_size, count, self.size.tokens)

    def experiment(self, dtype: str, *overrides: str, device: torch.device | None = None) -> Experiment:
        """The config of a federation."""
        model = {"name": str(self.model), "split_layer": self.cut, "dtype": dtype}
        longest = f"training.max_length={self.size.tokens}"
        return Experiment(
            model,
            {"files": str(self.texts)},
            self.size.clients,
            self.size.batch,
            [longest, *overrides],
            str(device or self.place.device),
        )

    @cached_property
    def flops(self) -> int:
        """Of the products for a token, where all blocks are adapted."""
        arena = next(iter(self._arenas.values()), None) or self.arena(BFLOAT16)
        return Products(arena.federation, 1, 1).flops

    def product(self, dtype: str) -> dict[str, Any]:
        """The device's own rate."""
        return {"tflops": self.rate(dtype), "share": 1.0, "note": f"{self.size.product} x {self.size.product}"}

    def rate(self, dtype: str) -> float:
        """TFLOP/s of a large matrix product."""
        if dtype not in self._rates:
            side = self.size.product
            a, b = (torch.randn(side, side, device=self.place.device).to(getattr(torch, dtype)) for _ in range(2))
            seconds = self._seconds_each(lambda: torch.mm(a, b))
            self._rates[dtype] = 2 * side**3 / seconds / 1e12
        return self._rates[dtype]

    def beside_the_cpu(self) -> dict[str, Any]:
        """Losses and adapters of three steps of plain gradient descent, in float32, there and on the CPU."""
        few = ("training.local_steps=3", "training.batch_size=2")
        sgd = [f"training.{side}_optimizer={{name: sgd, lr: 0.1}}" for side in ("client", "server")]
        found = []
        for device in (torch.device("cpu"), self.place.device):
            with tempfile.TemporaryDirectory(dir=self.folder) as name:
                experiment = self.experiment(FLOAT32, *few, *sgd, device=device)
                found.append(trained(build(experiment.config(Path(name)))))
        (losses, adapters), (other_losses, other_adapters) = found
        apart = {
            "losses": max(abs(a - b) / abs(a) for a, b in zip(losses, other_losses, strict=True)),
            "adapters": max(_apart(adapters[name], other_adapters[name]) for name in adapters),
        }
        note = ", ".join(f"{what} differ by {share:.1e}" for what, share in apart.items())
        if any(apart[what] > most for what, most in EQUAL.items()):
            raise AssertionError(f"{note}; at most {EQUAL}")
        return {"note": note}

    def fused(self, dtype: str) -> dict[str, Any]:
        """Atlas as it comes; what it is built of serves others of the same dtype."""
        self._arenas.clear()
        before = self._before()
        with closing(atlas_steps(self.arena(dtype).federation)) as steps:
            return self._measured(dtype, steps, before)

    def arena(self, dtype: str) -> Arena:
        """The federation, and the parts for others; of one dtype at a time."""
        if dtype not in self._arenas:
            self._arenas.clear()
            folder = self.folder / dtype
            folder.mkdir(exist_ok=True)
            self._arenas[dtype] = Arena(self.experiment(dtype), folder)
        return self._arenas[dtype]

    def trainer(self, dtype: str) -> dict[str, Any]:
        """The unsplit model on the texts of all clients, as many of them in a step."""
        arena = self.arena(dtype)
        before = self._before()
        with closing(trainer_steps(arena, everybody=True)) as steps:
            return self._measured(dtype, steps, before)

    def naive(self, dtype: str) -> dict[str, Any]:
        """A copy of the lower half for each client."""
        arena = self.arena(dtype)
        before = self._before()
        return self._measured(dtype, NaiveSplit(arena), before)

    def atlas(self, dtype: str, *overrides: str, flops: bool = True, rate: str | None = None) -> dict[str, Any]:
        """Atlas with other options; ``rate``: the dtype of products, where it is not that of the weights."""
        before = self._before()
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            federation = build(self.experiment(dtype, *overrides).config(Path(name)))
            with closing(atlas_steps(federation)) as steps:
                return self._measured(rate or dtype, steps, before, flops)

    def long_passes(self, dtype: str) -> dict[str, Any]:
        """Atlas with more clients in a pass than suit a CPU."""
        with _pass_tokens(LONG_PASS):
            return self.atlas(dtype)

    def quantised(self, dtype: str, kind: str) -> dict[str, Any]:
        """Atlas over quantised frozen weights."""
        if find_spec("bitsandbytes") is None:
            raise SkippedError("needs bitsandbytes, which is not installed")
        return self.atlas(dtype, f"model.quantization={kind}")

    def compiled(self, dtype: str) -> dict[str, Any]:
        """Atlas with what no adapter touches compiled."""
        if self.place.device.type != "cuda":
            raise SkippedError("on a GPU alone: on a CPU compiling takes a minute and gains little")
        return self.atlas(dtype, "engine.compile=true")

    def replayed(self, dtype: str) -> dict[str, Any]:
        """Atlas with passes that are replayed; it fails if any is not, beside the first of a shape."""
        before = self._before()
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            federation = build(self.experiment(dtype, "engine.cuda_graphs=true").config(Path(name)))
            if federation.graphs is None:
                raise SkippedError("on a GPU alone: elsewhere nothing is replayed")
            with closing(atlas_steps(federation)) as steps:
                found = self._measured(dtype, steps, before)
        parties = [each for each in (federation.graphs, federation.server.graphs) if each is not None]
        if bad := [each.why for each in parties if each.why is not None]:
            raise AssertionError(f"not all was replayed: {bad[0]}")
        return found | {"note": f"{sum(each.record()['graphs'] for each in parties)} graphs"}

    def _before(self) -> int:
        """Bytes on the device before somebody is made; the model is drawn there first."""
        assert self.model.is_dir()
        return self.place.allocated()

    def _measured(self, dtype: str, contestant: Contestant, before: int, flops: bool = True) -> dict[str, Any]:
        for _ in range(WARM_UP):
            contestant.step()
        done = []
        seconds = self._seconds_each(lambda: done.append(contestant.step().tokens))
        speed = sum(done) / len(done) / seconds
        found = {"tokens_per_second": speed, "peak_mib": self.place.peak(before)}
        if flops:
            tflops = speed * self.flops / 1e12
            found |= {"tflops": tflops, "share": tflops / self.rate(dtype)}
        return found

    def _seconds_each(self, call: Callable[[], object]) -> float:
        """Seconds of one of as many calls as fill the time, after one."""
        once = self._seconds(call, 1)
        count = max(LEAST, min(MOST, int(self.place.seconds / max(once, 1e-9))))
        return self._seconds(call, count) / count

    def _seconds(self, call: Callable[[], object], count: int) -> float:
        self.place.wait()
        began = time.perf_counter()
        for _ in range(count):
            call()
        self.place.wait()
        return time.perf_counter() - began


def trained(federation: Federation) -> tuple[list[float], dict[tuple[str, str], torch.Tensor]]:
    """Sums of losses by client, and how far all adapters moved, over the local steps of one round."""
    set_up(federation)
    start, attendance = _values(federation), Attendance(federation, list(federation.clients), FIRST)
    attendance.begin()
    done = local_steps(federation, attendance, Ledger(), lambda *_: None)
    moved = {key: tensor - start[key] for key, tensor in _values(federation).items()}
    return [work.loss_sum for work in done.values()], moved


def _values(federation: Federation) -> dict[tuple[str, str], torch.Tensor]:
    """All adapters, by who has them and their name."""
    owners = {**federation.clients, **federation.server.groups}
    states = {who: owner.adapters.state() for who, owner in owners.items()}
    return {(who, name): t.to("cpu", copy=True) for who, state in states.items() for name, t in state.items()}


def _apart(moved: torch.Tensor, other: torch.Tensor) -> float:
    """The difference of two movements, as a share of the first."""
    return float((moved - other).norm() / moved.norm().clamp_min(1e-30))


@contextmanager
def _pass_tokens(tokens: int) -> Iterator[None]:
    before, passes.PASS_TOKENS = passes.PASS_TOKENS, tokens
    try:
        yield
    finally:
        passes.PASS_TOKENS = before
