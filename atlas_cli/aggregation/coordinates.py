"""Coordinate-wise robust merging of the clients' changes (Yin et al., 1803.01498).

It works on products, not on factors: with change_k = dW_k after - dW_k before (d_out, d_in), a group's update becomes

    G <- trunc_R(G + centre over k of change_k)

with ``centre`` taken apart for every number of the matrix, over the clients that hold the layer, all of equal weight as
in the paper. The centre of low-rank matrices has full rank, so the merge is dense: rows are worked on in chunks, and
the sum is one matrix.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from atlas_cli.aggregation.contract import Adapters, BaseMethod, Context, Factors, Merge, Update
from atlas_cli.aggregation.error import shares
from atlas_cli.aggregation.low_rank import DENSE_COPIES, dense_svd, precise, redistribute
from atlas_cli.errors import ConfigError

# of the numbers of a chunk: the clients' values, their sorted copy, its indices, and a product under way
CHUNK_COPIES = 4
CHUNK_BYTES = 64 * 2**20  # of a chunk, where no cap is set


def trimmed_mean(values: Tensor, cut: int) -> Tensor:
    """Mean over the first axis of values (K, ...) without the ``cut`` smallest and ``cut`` largest at each place."""
    return values.sort(0).values[cut : len(values) - cut].mean(0)


class CoordinateMethod(BaseMethod):
    """A method that merges by a centre of its own, of the clients' changes and of their heads.

    Where no cap is set on the memory of a merge, chunks take 64 MiB beside the dense sum and its SVD.
    """

    EQUAL_CLIENTS = True
    CUTS_MAY_DIFFER = False  # what the server trained for several clients is not one value
    UNWEIGHTED = "counts each client once"

    @abstractmethod
    def _centre(self, values: Tensor) -> Tensor:
        """The centre of values (K, ...) over their first axis."""

    def aggregate(self, current: Adapters, updates: Sequence[Update], context: Context) -> Merge:
        """G after the round at the group's ranks, and G before truncation; layers that nobody sent stay as they are."""
        merged, target = dict(current), dict(current)
        for path, before in current.items():
            if held := [update.adapters[path] for _, update in shares(path, updates)]:
                self.require_room(before.A.shape[1], before.B.shape[0])
                whole = dense_svd(_moved(before, held, self._centre, self.server_memory))
                target[path], merged[path] = whole.factors, redistribute(whole, before)
        return Merge(merged, target=target)

    def merge_values(self, values: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        """The centre of the values, as for adapters."""
        return self._centre(torch.stack(list(values)))

    def require_room(self, d_in: int, d_out: int) -> None:
        """Check that the dense sum and its SVD fit.

        Raises:
            ConfigError: they do not.
        """
        needed = DENSE_COPIES * 8 * d_out * d_in
        if self.server_memory is not None and self.server_memory < needed:
            raise ConfigError(
                f"{self.server_memory} bytes are too few to merge a layer of {d_out} x {d_in} by coordinates; allow at "
                f"least {needed}",
                key="aggregation.server_memory",
            )


def _moved(before: Factors, held: Sequence[Factors], centre: Callable[[Tensor], Tensor], memory: int | None) -> Tensor:
    """G + centre of the changes, (d_out, d_in)."""
    A, B = precise(before.A), precise(before.B)
    total = B @ A
    clients = [(precise(f.A), precise(f.B)) for f in held]
    for rows in torch.arange(len(total), device=total.device).split(_rows(total, len(held), memory)):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        changes = [B_k[part] @ A_k - B[part, : len(A_k)] @ A[: len(A_k)] for A_k, B_k in clients]
        total[part] += centre(torch.stack(changes))
    return total


def _rows(total: Tensor, n_clients: int, memory: int | None) -> int:
    d_out, d_in = total.shape
    chunk = CHUNK_BYTES if memory is None else memory - 2 * 8 * d_out * d_in
    return min(d_out, max(1, chunk // (CHUNK_COPIES * 8 * n_clients * d_in)))
