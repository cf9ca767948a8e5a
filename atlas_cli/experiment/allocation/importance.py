"""Layer importance: how much each layer of a client matters for the client's own task.

At B = 0 only B has a gradient, grad B = s (dL/dW) A^T. Rows of A are uniform within 1 / sqrt(d_in), of variance
1 / (3 d_in), so norm(grad B)^2 is s^2 r / (3 d_in) norm(dL/dW)^2 in expectation, and

    I_l = 3 d_in norm(grad B_l)^2 / (r s^2)

estimates the squared gradient norm of the frozen weight itself: it depends neither on the rank nor on the scale that it
is probed with. The targets of a block are summed.
"""

from __future__ import annotations

from atlas_cli.data.collate import batch_features, collate
from atlas_cli.double import double
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.parties.exchange import exchange
from atlas_cli.federation.parties.numerics import gradient_of
from atlas_cli.federation.probe import probe
from atlas_cli.models.adapters.lora import AdapterSet
from atlas_cli.models.block_paths import layer_of
from atlas_cli.models.families.contract import BaseFamily
from atlas_cli.wire.ledger import Ledger

# the estimate spreads by about sqrt(2 / rank), and without optimizer state a rank costs little
PROBE_RANK = 32


def measure_importance(
    federation: Federation, client: str, batches: int = 2, rank: int = PROBE_RANK
) -> dict[int, float]:
    """I_l of every client layer, averaged over the first batches that the client trains on.

    Forward, answer and backward of a client and a server made for it, with fresh adapters on the client and the
    server's values as they are now. Nothing is stepped, and no party of the federation is changed.

    Args:
        client: its name.
        batches: how many of its batches.
        rank: of the probing adapters, lowered to what the smallest layer takes.

    Raises:
        ConfigError: a federation that is not split.
        NonFiniteError: activations, loss or gradients that are not finite.
    """
    party, server = probe(federation, client, rank)
    group = federation.data[federation.group_of(client)]
    features, size, seed = group.train[client], federation.batch_size(client), federation.config.seed
    total = dict.fromkeys(range(party.cut), 0.0)
    for number in range(batches):
        chosen = batch_features(group.task, features, size, seed, client, number)
        batch = collate(group.task, chosen, federation.pad)
        reply, _ = exchange(server, party, batch, party.forward_batch(batch, 0, 0), Ledger())
        party.backward(reply.gradients)
        for layer, value in layer_importance(party.adapters, party.base.family).items():
            total[layer] += value / batches
        for parameter in party.trained():
            parameter.grad = None
    return total


def layer_importance(adapters: AdapterSet, family: BaseFamily) -> dict[int, float]:
    """I_l from gradients that were just computed at B = 0."""
    layers: dict[int, float] = {}
    for path, adapter in adapters.adapters.items():
        squared = double(gradient_of(adapter.lora_B)).square().sum().item()
        value = 3 * adapter.lora_A.shape[1] * squared / (adapter.rank * adapter.scaling**2)
        layers[layer_of(path, family)] = layers.get(layer_of(path, family), 0.0) + value
    return layers
