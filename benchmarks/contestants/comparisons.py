"""What is compared with what, on which work, and which figure is to be reached."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import prefix_cache
import torch

from atlas_cli.experiment.allocation.measured_client import measure_client
from atlas_cli.models.frozen.kernel_order import available
from atlas_cli.planning.memory_of_plan import Shape
from contestants.atlas import atlas_rounds, atlas_steps
from contestants.experiment import MODELS, WINDOW, Arena, Experiment, write_long_texts
from contestants.flower import FlowerRounds
from contestants.freed_memory import give_back_freed_memory
from contestants.half_memory import peft_half
from contestants.naive import NaiveSplit
from contestants.products import Products
from contestants.trainer_rounds import TrainerRounds
from contestants.turns import StepByStep, Turn, ratios, samples_per_second, spread, take_turns
from contestants.unsplit import trainer_steps

CORPUS = {"corpus": "movie-sentiment"}
PADDED, CLIENTS = 128, 8
SHAPE = (8, 128)  # texts, tokens


# ratios of speed that are to be reached, by what is compared and on which work
TARGETS: Mapping[tuple[str, str], float] = {
    ("PEFT + Trainer, unsplit", "gpt2, 1 client x 8"): 1.3,
    ("PEFT + Trainer, unsplit", "minilm, 1 client x 8"): 2.0,
    ("PEFT + Trainer, unsplit", "llama, 1 client x 8"): 1.3,
    ("the same, grouped by length", "minilm, 1 client x 8"): 1.6,
    ("naive split, dynamic padding", "gpt2, 8 clients x 1"): 2.3,
    ("naive split, dynamic padding", "gpt2, 8 clients x 4"): 2.0,
    ("naive split, dynamic padding", "minilm, 8 clients x 4"): 2.0,
    ("naive split, padded to 128", "gpt2, 8 clients x 1"): 7.0,
    ("naive split, padded to 128", "gpt2, 8 clients x 4"): 7.0,
    ("naive split, padded to 128", "minilm, 8 clients x 4"): 6.0,
    ("Flower simulation, FedAvg LoRA", "minilm, 8 clients x 4, rounds"): 2.2,
    ("matrix products of the real tokens", "gpt2, 1 client x 8, 128 tokens each"): 0.95,
}


Closable = StepByStep | FlowerRounds | TrainerRounds


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        against: what atlas is compared with, and ``work``: on what.
        figure: median, quartiles and number of the ratios.
        target: to reach, at least; ``at_most``: not to exceed. None: none is set.
        rates: other figures by name, with their unit in it.
        processor: as ``figure``, in seconds of the processor; None of who computes in another process.
    """

    against: str
    work: str
    figure: Mapping[str, float]
    target: float | None = None
    at_most: bool = False
    rates: Mapping[str, float] = field(default_factory=dict)
    processor: Mapping[str, float] | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        found = self.figure["median"]
        return found <= self.target if self.at_most else found >= self.target


@dataclass(frozen=True)
class Options:
    """How much to measure, and with which changes to the config."""

    quick: bool
    overrides: Sequence[str]
    flower: Path | None

    @property
    def turns(self) -> int:
        """Timed steps of each contestant."""
        return 3 if self.quick else 8

    @property
    def models_of_rounds(self) -> tuple[str, ...]:
        """Those of which whole rounds are compared."""
        return ("minilm",) if self.quick else ("minilm", "gpt2")

    def sizes(self, model: str) -> tuple[int, ...]:
        """Samples a client."""
        return ((4,) if model == "minilm" else (1,)) if self.quick else (1, 4, 8)


def trainer(options: Options) -> Iterator[Result]:
    """One client, against the unsplit model under PEFT and transformers.Trainer."""
    for model in MODELS:
        yield from against_trainer(model, options, (1 if options.quick else 2) * options.turns)


def against_trainer(model: str, options: Options, turns: int) -> Iterator[Result]:
    """One client of 8 texts a step."""
    with arena_of(model, 1, 8, options) as arena:
        # the Trainer's own order, and texts of like length together, as it can be told to
        others = {way: trainer_steps(arena, way) for way in ("random", "group_by_length")}
        with _closing(atlas_steps(arena.federation), *others.values()) as (atlas, *_):
            taken = take_turns({"atlas": atlas, **others}, turns)
    for way, name in (("random", "PEFT + Trainer, unsplit"), ("group_by_length", "the same, grouped by length")):
        yield _result(taken, way, name, f"{model}, 1 client x 8")


def split(options: Options) -> Iterator[Result]:
    """Eight clients, against a copy of the half for each, padded to the longest text and to 128."""
    for model in MODELS:
        for size in options.sizes(model):
            yield from against_split(model, size, options, options.turns)


def against_split(model: str, size: int, options: Options, turns: int) -> Iterator[Result]:
    """Eight clients of ``size`` texts a step."""
    with arena_of(model, CLIENTS, size, options) as arena:
        naive = NaiveSplit(arena)
        others = {"naive": naive, "padded": naive.padded(PADDED)}
        with _closing(atlas_steps(arena.federation)) as (atlas,):
            taken = take_turns({"atlas": atlas, **others}, turns)
    for way, padding in (("naive", "dynamic padding"), ("padded", f"padded to {PADDED}")):
        yield _result(taken, way, f"naive split, {padding}", f"{model}, {CLIENTS} clients x {size}")


def flower(options: Options) -> Iterator[Result]:
    """Whole rounds, against FedAvg of LoRA adapters in a Flower simulation."""
    for model in options.models_of_rounds:
        yield from against_flower(model, 4, options, options.quick, 3 if options.quick else 5)


def against_flower(model: str, size: int, options: Options, short: bool, turns: int) -> Iterator[Result]:
    """Rounds of two local steps (``short``) or eight, of ``size`` texts; says so where Flower was not asked for."""
    name = "Flower simulation, FedAvg LoRA"
    if options.flower is None:
        print(f"{name}: not measured (--flower)")
        return
    with arena_of(model, CLIENTS, size, options, *_length(size, short)) as arena:
        yield _rounds_against(name, model, arena, FlowerRounds(arena, options.flower), turns)


def rounds(options: Options) -> Iterator[Result]:
    """Whole rounds, against a Trainer a client and FedAvg of the adapters in one process, as OpenFedLLM has it."""
    for model in options.models_of_rounds:
        yield from against_trainer_rounds(model, 4, options, options.quick, options.turns)


def against_trainer_rounds(model: str, size: int, options: Options, short: bool, turns: int) -> Iterator[Result]:
    """Rounds of two local steps (``short``) or eight, of ``size`` texts."""
    with arena_of(model, CLIENTS, size, options, *_length(size, short)) as arena:
        yield _rounds_against("a Trainer a client, FedAvg LoRA", model, arena, TrainerRounds(arena), turns)


def _rounds_against(name: str, model: str, arena: Arena, other: FlowerRounds | TrainerRounds, turns: int) -> Result:
    with _closing(atlas_rounds(arena.federation), other) as (atlas, _):
        for _ in range(2):  # round 0 delivers the base, and in round 1 memory is measured
            atlas.step()
        taken = take_turns({"atlas": atlas, "other": other}, turns)
    here = isinstance(other, TrainerRounds)
    return _result(taken, "other", name, f"{model}, {CLIENTS} clients x {arena.batch}, rounds", here=here)


def _length(size: int, short: bool) -> list[str]:
    return ["training.local_steps=2", f"task_groups.texts.data.limit={CLIENTS * size * 2}"] if short else []


def products(options: Options) -> Iterator[Result]:
    """The share of time that the matrix products of the real tokens alone would take."""
    yield from against_products(options, long=True)
    yield from against_products(options, long=False)


def against_products(options: Options, *, long: bool) -> Iterator[Result]:
    """One client, on ``long`` texts, of a target, or on the sentences of the corpus."""
    size = SHAPE[0]
    with arena_of("gpt2", 1, size, options, long=long) as arena:
        lengths = [len(text["input_ids"]) for text in arena.texts(arena.clients[0])]
        tokens = SHAPE[1] * size if long else round(size * sum(lengths) / len(lengths))
        alone = {"products": Products(arena.federation, size, tokens)}
        if available():
            alone["in order"] = Products(arena.federation, size, tokens, ordered=True)
        with _closing(atlas_steps(arena.federation)) as (atlas,):
            taken = take_turns({"atlas": atlas, **alone}, options.turns)
    flops = alone["products"].flops / alone["products"].work.tokens / 1e9
    work = f"gpt2, 1 client x {size}, " + (f"{SHAPE[1]} tokens each" if long else "natural lengths")
    for way in alone:
        rates = {
            f"{who}, GFLOP/s": flops * sum(t[who].work.tokens for t in taken) / sum(t[who].seconds for t in taken)
            for who in ("atlas", way)
        }
        name = "matrix products of the real tokens" if way == "products" else "the same, weights in order"
        yield Result(name, work, spread(ratios(taken, "atlas", way)), TARGETS.get((name, work)), rates=rates)


def prefix(options: Options) -> Iterator[Result]:
    """The frozen prefix from the cache (``prefix_cache.py``), against adapters in all blocks."""
    torch.manual_seed(0)
    base = prefix_cache.random_base()
    for tokens, batches in ((20, 4), *(() if options.quick else ((128, 1),))):
        found = prefix_cache.measure(base, prefix_cache.BLOCKS // 2, tokens, batches, options.turns)
        work = f"client of 6 gpt2 blocks, adapters in 3..5, {prefix_cache.BATCH} x {tokens}"
        yield Result("adapters in all blocks, no cache", work, spread(found.over_all), 2.0)
        yield Result("the same adapters, no cache", work, spread(found.over_upper))


def memory(options: Options) -> Iterator[Result]:
    """Peak memory of a client alone in a process, against stock PEFT on the same half."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speed.yaml"
        Experiment(MODELS["gpt2"], CORPUS, 1, SHAPE[0], options.overrides).config(Path(folder))
        atlas = measure_client(path, options.overrides, "client", Shape(*SHAPE, True), ("0", "1"))
    frozen = int(atlas.parts["frozen_weights"])
    work = f"client of 6 gpt2 blocks, {SHAPE[0]} x {SHAPE[1]}"
    alike, stock = (peft_half(6, *SHAPE, dropout) for dropout in (0.0, 0.1))
    whole = peft_half(12, *SHAPE, 0.0)
    for name, mine, theirs, target in (
        ("PEFT, peak beyond frozen weights", atlas.peak - frozen, alike["peak"] - frozen, 0.45),
        ("the same with GPT-2's dropout of 0.1", atlas.peak - frozen, stock["peak"] - frozen, None),
        ("PEFT, peak with frozen weights", atlas.peak, alike["peak"], None),
        ("PEFT on the whole model, peak with frozen weights", atlas.peak, whole["peak"], None),
        ("PEFT, peak resident memory", atlas.resident, alike["resident"], None),
    ):
        rates = {"atlas, MiB": mine / 2**20, "other, MiB": theirs / 2**20}
        yield Result(name, work, spread([mine / theirs]), target, at_most=True, rates=rates)


COMPARISONS: dict[str, Callable[[Options], Iterator[Result]]] = {
    each.__name__: each for each in (trainer, split, flower, rounds, products, prefix, memory)
}


def _result(taken: Sequence[Turn], other: str, name: str, work: str, *, here: bool = True) -> Result:
    """``here``: the other computes in this process."""
    rates = {
        f"{who}, samples/s": samples_per_second(taken, each) for who, each in (("atlas", "atlas"), ("other", other))
    }
    processor = spread(ratios(taken, "atlas", other, "processor")) if here else None
    figure = spread(ratios(taken, "atlas", other))
    return Result(name, work, figure, TARGETS.get((name, work)), rates=rates, processor=processor)


@contextmanager
def arena_of(
    model: str, clients: int, size: int, options: Options, *overrides: str, long: bool = False
) -> Iterator[Arena]:
    """An arena, made when what others held before is given back: let go of the last before the next.

    Args:
        long: texts that fill the length that they are cut at, instead of the sentences of the corpus.
    """
    give_back_freed_memory()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = {"files": str(write_long_texts(folder, CORPUS, size * WINDOW))} if long else CORPUS
        yield Arena(Experiment(MODELS[model], data, clients, size, [*overrides, *options.overrides]), folder)


@contextmanager
def _closing(*steps: Closable) -> Iterator[Sequence[Closable]]:
    try:
        yield steps
    finally:
        for each in steps:
            each.close()
