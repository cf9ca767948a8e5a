"""Screening of updates before the merge: an update that cannot be right is left out, with a reason.

Checked in this order: names and shapes are those that were delivered, every value is finite, the client's weight is
above zero; and with ``screen.max_norm_ratio``, that the Frobenius norm of what the client changed, over all layers,

    norm_k = sqrt(sum over layers of norm(dW_k after - dW_k before)^2),  dW = s B A

is not more than so many times the median of those of its group's cohort. Norms come from the factors by QR.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

from torch import Tensor

from atlas_cli.aggregation.checks import NotFiniteTermError, hook_of
from atlas_cli.aggregation.contract import Adapters, truncated
from atlas_cli.aggregation.error import worths
from atlas_cli.aggregation.low_rank import squared_norm, stack
from atlas_cli.errors import NonFiniteError
from atlas_cli.federation.merging.aggregator import Aggregator
from atlas_cli.federation.parties.numerics import first_not_finite
from atlas_cli.wire.messages import EXTRA

Sent = Mapping[str, Tensor]


def unfit(aggregator: Aggregator, client: str, sent: Sent, ranks: Mapping[str, int]) -> str | None:
    """Why an update cannot be merged: its names, its shapes or its client's weight; None for one that can.

    Args:
        ranks: of the client by layer, as delivered; a method that prunes ranks may be sent less.
    """
    member, prunes = aggregator.members[client], aggregator.method.PRUNES
    expected: dict[str, tuple[int, ...]] = {}
    for path, delivered in ranks.items():
        d_in, d_out = aggregator.features[path]
        A = sent.get(f"{path}.lora_A")
        rank = min(A.shape[0], delivered) if prunes and A is not None and A.dim() == 2 and len(A) else delivered
        expected |= {f"{path}.lora_A": (rank, d_in), f"{path}.lora_B": (d_out, rank)}
    shapes = {name: tuple(tensor.shape) for name, tensor in sent.items()}
    parts = aggregator.parts(client).sent
    wanted = {name: shape for name, shape in expected.items() if name.rpartition("lora_")[2] in parts}
    wanted |= {name: tuple(p.shape) for name, p in aggregator.head_of(client).items()}
    sizes = {path: len(sent[name]) for path in ranks if (name := f"{path}.lora_A") in sent} if prunes else ranks
    extras = aggregator.method.extra_tensors(aggregator.layers_of({**ranks, **sizes})).up
    wanted |= {f"{EXTRA}{name}": tuple(shape) for name, shape in extras.items()}
    for name in sorted(shapes.keys() | wanted.keys()):
        if shapes.get(name) != wanted.get(name):
            return f"sent {name} of shape {shapes.get(name, 'none')}, delivered: {wanted.get(name, 'none')}"
    if not (math.isfinite(member.weight) and member.weight > 0):
        return f"weight {member.weight:g} in the merge"
    return None


def require_finite_update(aggregator: Aggregator, client: str, sent: Sent, round_number: int) -> None:
    """Refuse an update with a value that is not finite.

    Raises:
        NonFiniteError: names client, tensor and round; and the method's file, where adapters and head are finite.
    """
    if name := first_not_finite(sorted(sent.items(), key=lambda item: item[0].startswith(EXTRA))):
        if name.startswith(EXTRA) and (term := aggregator.members[client].term) is not None:
            what = f"{name.removeprefix(EXTRA)} for client {client}"
            raise NotFiniteTermError(f"{hook_of(term, 'end_round')} gives {what} that is not finite")
        raise NonFiniteError(
            f"update of client {client}, {name}, round {round_number} is not finite; try a lower learning rate, or "
            "training.on_nonfinite: drop-client"
        )


def too_large(
    aggregator: Aggregator, group: str, sent: Mapping[str, Sent], ranks: Mapping[str, Mapping[str, int]], ratio: float
) -> dict[str, str]:
    """Clients of a group whose update is more than ``ratio`` times as large as the median one, with the reason.

    Args:
        sent: by client, checked updates.
        ranks: by client, as delivered.
    """
    merged, norms = aggregator.groups[group].merged, dict[str, float]()
    for client, tensors in sent.items():
        update = aggregator.update(client, tensors)
        after = update.adapters
        # ranks may be lower than delivered (``PRUNES``), or the group's (``SELECTS``)
        before: Adapters = truncated(
            merged, {path: max(rank, after[path].rank) for path, rank in ranks[client].items()}
        )
        before = before if update.late is None else update.late.began
        norms[client] = change_norm(*(worths(aggregator.method, each) for each in (after, before)))
    if not norms:
        return {}
    middle = statistics.median(norms.values())
    return {
        client: f"update of norm {norm:.3g}, the median is {middle:.3g}"
        for client, norm in norms.items()
        if norm > ratio * middle
    }


def change_norm(after: Adapters, before: Adapters) -> float:
    """Frobenius norm of dW after - dW before over all layers."""
    parts = (stack([(1.0, factors), (-1.0, before[path])]) for path, factors in after.items())
    return math.sqrt(sum(squared_norm(part) for part in parts))
