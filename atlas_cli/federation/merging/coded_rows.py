"""The rows that merges add to the base of a group, as a codec sends them (``wire.deliveries``).

The rows of one merge are encoded once, and everybody adds what is decoded of them: the group to its T, each client to
its own. So the bases of a group are one, whoever missed which merge.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Self

import torch

from atlas_cli.aggregation.contract import PARTS, Adapters, BaseMethod, Factors
from atlas_cli.federation.client_state.member import Member
from atlas_cli.seeding import torch_generator
from atlas_cli.wire.parameter_codec import COUNTS, Coded, ParameterCodec, Shapes, Tensors, adapter_shapes


class RowsCodec:
    """Encodes what a merge adds to the base of a group.

    Args:
        codec: that of ``wire.deliveries``, which all clients of the group have.
        group: whose base it is.
        seed: of the run.
        layers: of the group's adapter.
    """

    def __init__(self, codec: ParameterCodec, group: str, seed: int, layers: Collection[str]) -> None:
        self._codec, self._group, self._seed, self.layers = codec, group, seed, sorted(layers)

    @classmethod
    def of(cls, group: str, members: Mapping[str, Member], method: BaseMethod) -> Self | None:
        """That of a group; None where rows are sent as they are, or there are none."""
        if not method.CHANGES_BASE:
            return None
        own = [member for member in members.values() if member.group == group]
        coding, layers = own[0].coding, {path for member in own for path in member.ranks}
        if coding is None or coding.down is None:
            return None
        return cls(coding.down.of_all_rows(), group, coding.seed, layers)

    def encode(self, rows: Adapters, version: int) -> Coded:
        """The rows of the merge that made ``version``, of which ``factors_of`` makes factors again."""
        named = {f"{path}.lora_{part}": t for path, f in rows.items() for part, t in zip(PARTS, f, strict=True)}
        coded = self._codec.encode(named, torch_generator(self._seed, f"wire-base/{self._group}", version))
        counts = [rows[path].rank if path in rows else 0 for path in self.layers]
        return coded._replace(parts={**coded.parts, COUNTS: torch.tensor(counts, dtype=torch.int32)})

    def bytes(self, rows: Adapters) -> int:
        """The bytes of the tensors of one merge, in closed form: its parts, and 4 a layer."""
        return self._codec.payload_bytes(_shapes(_ranks(rows), _features(rows))) + 4 * len(self.layers)

    def layout(self, rows: Adapters) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of the tensors of one merge."""
        parts = self._codec.layout(_shapes(_ranks(rows), _features(rows)))
        return {name: (part.shape, part.dtype) for name, part in parts.items()} | {
            COUNTS: ((len(self.layers),), torch.int32)
        }

    def decode(self, parts: Tensors, features: Mapping[str, tuple[int, int]]) -> list[dict[str, Factors]]:
        """The rows of each merge in a message.

        Args:
            features: (d_in, d_out) by layer.
        """
        counts = parts[COUNTS].view(-1, len(self.layers)).tolist()
        found, done = [], dict.fromkeys(parts, 0)
        for own in counts:
            shapes = _shapes({path: n for path, n in zip(self.layers, own, strict=True) if n}, features)
            of_merge = {}
            for name, part in self._codec.layout(shapes).items():
                size = part.shape[0]
                of_merge[name] = parts[name][done[name] : done[name] + size]
                done[name] += size
            found.append(factors_of(self._codec.decode(of_merge, shapes)))
        return found


def factors_of(named: Tensors) -> dict[str, Factors]:
    """Rows by layer, named as adapters."""
    paths = dict.fromkeys(name.rpartition(".")[0] for name in named)
    return {path: Factors(named[f"{path}.lora_A"], named[f"{path}.lora_B"]) for path in paths}


def joined(coded: Sequence[Coded]) -> dict[str, torch.Tensor]:
    """The tensors that are sent of several merges, in order."""
    return {name: torch.cat([each.parts[name] for each in coded]) for name in coded[0].parts} if coded else {}


def _ranks(rows: Adapters) -> dict[str, int]:
    return {path: factors.rank for path, factors in rows.items()}


def _features(rows: Adapters) -> dict[str, tuple[int, int]]:
    return {path: (factors.A.shape[1], factors.B.shape[0]) for path, factors in rows.items()}


def _shapes(ranks: Mapping[str, int], features: Mapping[str, tuple[int, int]]) -> Shapes:
    return adapter_shapes(ranks, features, PARTS)
