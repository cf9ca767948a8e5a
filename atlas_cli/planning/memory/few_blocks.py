"""The saved and live bytes of a step of many blocks, from traces of a few of them.

A trace of all blocks of a large model takes seconds, and a table of split layers asks for one a row. But blocks are
alike: the topmost and one below it, with the largest adapters of any other, need as much at once as all; a third stands
below them where the lowest have no backward, and one more for each type of attention that those two are not of. What
the other blocks save besides is what the few save more with one more among them, and ranks count in proportion. So
every byte comes from a trace, and the traces are kept: most rows of a table and most clients of a run share them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

from transformers import PreTrainedConfig

from atlas_cli.models.block_config import kinds_of_blocks, of_blocks
from atlas_cli.models.block_paths import layer_of
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.planning.memory.saved_trace import StepTrace, trace
from atlas_cli.planning.memory.step import ELEMENT, Step
from atlas_cli.tasks.contract import BaseTask

Ranks = Mapping[str, int]  # by name in a block


class Block(NamedTuple):
    """A block: the number of the model's first block of its type, and the ranks of its adapters by name."""

    number: int
    ranks: tuple[tuple[str, int], ...]


class Kind(NamedTuple):
    """Blocks that save as much: their place among the representative blocks, if they are one, and what they are."""

    place: int | None
    block: Block


def step_of(
    family: BaseFamily,
    hf_config: PreTrainedConfig,
    layers: range,
    ranks: Mapping[str, int],
    step: Step,
    *,
    whole: bool = False,
    task: BaseTask | None = None,
) -> StepTrace:
    """The exact bytes that a step of blocks ``layers`` saves, and a close upper bound on the bytes alive at once.

    Arguments are those of ``saved_trace.trace``.
    """
    placed: dict[int, dict[str, int]] = {}
    for path, rank in ranks.items():
        number = layer_of(path, family)
        placed.setdefault(number, {})[path.removeprefix(f"{family.blocks}.{number}.")] = rank
    head = None if task is None else (type(task), len(task.classes), task.pooling)
    config = hf_config.to_json_string(use_diff=False)
    # what an optimizer holds, and weights, are counted: all share their traces
    traced = replace(step, optimizer=Step.optimizer, embedding_rows=None)
    few = _Few(_Model(family, config, layers.start > 0, traced, whole, head, hf_config, task), layers, placed)
    alike = Counter(few.kind_of(layer) for layer in range(few.lowest, few.top))
    more = sum(count * few.besides(kind) for kind, count in alike.items())
    found, kept = few.traced, few.outputs_besides if family.keeps_outputs else 0
    # of more blocks, the lowest may need most, once the gradients of all above are there
    gradients = 0 if more else found.gradients
    return StepTrace(found.saved + more, max(found.peak, found.forward + kept) + more, gradients, found.forward + kept)


@dataclass(frozen=True)
class _Model:
    """The inputs of a trace besides its blocks.

    Attributes:
        config: as text; ``head``: of the task.
        upper: whether the blocks are fed with activations.
    """

    family: BaseFamily
    config: str
    upper: bool
    step: Step
    whole: bool
    head: object
    hf_config: PreTrainedConfig = field(compare=False)
    task: BaseTask | None = field(compare=False)


@lru_cache(maxsize=512)
def _traced(model: _Model, blocks: tuple[Block, ...]) -> StepTrace:
    ranks = {f"{model.family.blocks}.{i}.{name}": r for i, block in enumerate(blocks) for name, r in block.ranks}
    config = of_blocks(model.hf_config, [block.number for block in blocks])
    layers = range(int(model.upper), len(blocks))
    return trace(model.family, config, layers, ranks, model.step, whole=model.whole, task=model.task)


class _Few:
    """The blocks that represent all blocks.

    Attributes:
        lowest, top: numbers of the first and the last block that has a backward.
        largest: by type of block, ranks of the adapters by name in a block: the largest below the topmost.
    """

    def __init__(self, model: _Model, layers: range, placed: Mapping[int, Ranks]) -> None:
        self.model, self.placed, self.blocks = model, placed, len(layers)
        self.top = layers.stop - 1
        self.lowest = layers.start or min(placed, default=self.top)
        self.types = kinds_of_blocks(model.hf_config, layers.stop)
        self.largest = {kind: _largest(self._below(kind)) for kind in dict.fromkeys(self.types)}
        others = {self.types[layer]: layer for layer in range(self.top - 1, self.lowest, -1)}
        ends = [self.lowest, self.top] if layers else []  # a server may have no block
        for end in ends:
            others.pop(self.types[end], None)
        self.kept = sorted({*ends, *others.values()})
        self.stands = [
            self._block(n, placed.get(n, {}) if n == self.top else self.largest[self.types[n]]) for n in self.kept
        ]

    @cached_property
    def traced(self) -> StepTrace:
        """The trace of a step of the representative blocks."""
        return self._of(self.stands)

    @property
    def outputs_besides(self) -> int:
        """The bytes of the outputs of the blocks that run and are not represented."""
        represented = len(self.kept) + (self.lowest > 0 and not self.model.upper)
        step, width = self.model.step, int(self.model.hf_config.hidden_size)
        return (self.blocks - represented) * step.batch * step.tokens * width * ELEMENT[step.dtype]

    def kind_of(self, layer: int) -> Kind:
        """What the saved bytes of a block below the topmost depend on."""
        place = self.kept.index(layer) if layer in self.kept else None
        return Kind(place, self._block(layer, self.placed.get(layer, {})))

    def besides(self, kind: Kind) -> int:
        """The bytes saved by a block below the topmost that is not represented."""
        ranks = dict(kind.block.ranks)
        largest = self.largest[self.types[kind.block.number]]
        alike = {name: largest[name] for name in ranks}
        with_it = self._saved_with(kind, alike)
        found = with_it - self.traced.saved
        for name, rank in ranks.items():
            if rank != alike[name]:
                one_less = self._saved_with(kind, {**alike, name: alike[name] - 1})
                found -= (alike[name] - rank) * (with_it - one_less)
        return found

    def _saved_with(self, kind: Kind, ranks: Ranks) -> int:
        """The saved bytes with a block in place of its representative, or added to the others."""
        blocks = list(self.stands)
        block = Block(kind.block.number, tuple(sorted(ranks.items())))
        if kind.place is not None:
            blocks[kind.place] = block
        else:
            blocks.insert(-1, block)
        return self._of(blocks).saved

    def _below(self, kind: tuple[object, ...]) -> Iterator[Ranks]:
        return (ranks for layer, ranks in self.placed.items() if layer != self.top and self.types[layer] == kind)

    def _block(self, layer: int, ranks: Ranks) -> Block:
        return Block(self.types.index(self.types[layer]), tuple(sorted(ranks.items())))

    def _of(self, blocks: Sequence[Block]) -> StepTrace:
        cut_off = [Block(0, ())] if self.lowest else []  # a block without a backward, or below a server's half
        return _traced(self.model, (*cut_off, *blocks))


def _largest(placed: Iterable[Ranks]) -> dict[str, int]:
    found: dict[str, int] = {}
    for ranks in placed:
        for name, rank in ranks.items():
            found[name] = max(rank, found.get(name, 0))
    return found
