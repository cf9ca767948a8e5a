"""Which clients of a step are computed in one pass.

A matrix product of few rows does not use the machine, and a large one is no faster per row for being larger: clients
fill a pass up to ``pass_tokens`` real tokens, in their order. A pass is one row of real tokens, so that nothing is
computed for padding. A client that is alone in its pass, with hardly any padding, runs as Hugging Face's own padded
forward, unless other passes are computed beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

from atlas_cli.config.schema.training import TrainingConfig
from atlas_cli.data.collate import Batch
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.prefix_setup import SHOWN
from atlas_cli.models.halves.real_tokens import worth
from atlas_cli.models.halves.split import blocks_of
from atlas_cli.printable import listed
from atlas_cli.seeding import numpy_generator

PASS_TOKENS = 512  # torch's own product of 320 rows has 96 % of the rate of one of 1,024; a pass' graphs live together
PASSES_A_PROCESS = 2  # at least, of several processes: while one is with the server, the other is computed
GRAPHED_PLACES = 2048  # of a pass that is replayed on a GPU, with all texts as long as they may be
FULL_WIDTH = 768  # hidden size from which that is so; of a narrower model, what is around the products counts for more


class Pass(NamedTuple):
    """Clients that are computed one after another, or, ``shared``, in one row of real tokens."""

    clients: list[str]
    shared: bool


def passes(
    federation: Federation,
    batches: Mapping[str, Batch],
    place: Callable[[str], int] = lambda _: 0,
    at_once: int = 1,
) -> Iterator[Pass]:
    """The passes of a step; clients of one pass have the same blocks, cut, prefix and lowest trained block.

    The order of the clients of a process is kept where a sequential server update depends on it.

    Args:
        place: the process that a client computes in; those of several share no pass, and each has
            ``PASSES_A_PROCESS`` at least, if it has as many clients.
        at_once: how many a process computes at one time; for several, passes have about as many tokens each.
    """
    kinds = {client: _kind(federation, client) if federation.server.real_tokens else None for client in batches}
    placed = {client: None if kind is None else (place(client), kind) for client, kind in kinds.items()}
    order = list(batches)
    if federation.config.training.server_update == "sequential":
        order.sort(key=place)
    else:
        seen = {kind: i for i, kind in enumerate(dict.fromkeys(placed.values()))}
        order.sort(key=lambda client: seen[placed[client]])
    tokens = {client: batch.n_tokens for client, batch in batches.items()}
    graphed = federation.graphs is not None and federation.graphs.active
    if graphed:  # whatever the lengths, the same clients share a pass in each step, and a graph serves it again
        longest = federation.config.training.max_length
        tokens = {client: len(batch.input_ids) * longest for client, batch in batches.items()}
    of_process: Counter[int] = Counter()
    for client in batches:
        of_process[place(client)] += tokens[client]
    whole = GRAPHED_PLACES if graphed else pass_tokens(federation.base.hidden_size)
    for kind, neighbours in groupby(order, key=placed.__getitem__):
        same = list(neighbours)
        if kind is None:
            yield Pass(same, shared=False)
            continue
        at, _ = kind
        enough = whole if len(of_process) == 1 else -(-of_process[at] // PASSES_A_PROCESS)
        if at_once == 1:
            filled = list(fill_passes(same, tokens, whole, enough))
        else:
            filled = even_passes(same, tokens, whole, at_once)
        beside = at_once > 1 and len(filled) > 1
        for clients in filled:
            places = sum(batches[client].input_ids.numel() for client in clients)
            padded = worth(places, sum(tokens[client] for client in clients))
            yield Pass(clients, shared=len(clients) > 1 or padded or beside or graphed)


def pass_tokens(hidden_size: int) -> int:
    """The most real tokens of a pass of several clients: hidden states of as many bytes for all narrow models."""
    return PASS_TOKENS * max(hidden_size, FULL_WIDTH) // hidden_size


def fill_passes(
    clients: Iterable[str], tokens: Mapping[str, int], most: int, enough: int | None = None
) -> Iterator[list[str]]:
    """Group clients in their order, up to ``most`` real tokens and at least one client per pass.

    Args:
        enough: a pass with so many real tokens takes no further client.
    """
    together: list[str] = []
    for client in clients:
        filled = sum(tokens[c] for c in together)
        if together and (filled + tokens[client] > most or (enough is not None and filled >= enough)):
            yield together
            together = []
        together.append(client)
    if together:
        yield together


def even_passes(clients: Iterable[str], tokens: Mapping[str, int], most: int, at_once: int) -> list[list[str]]:
    """Group clients for passes of which so many are computed at one time: a multiple of that, of about as many tokens
    each, and of ``most`` or somewhat more.

    The client with the most tokens that is left goes to the pass with the fewest; each is in the order of the clients.
    """
    every = list(clients)
    rounds = -(-sum(tokens[client] for client in every) // (at_once * most))
    passes: list[list[str]] = [[] for _ in range(min(at_once * rounds, len(every)))]
    filled = [0] * len(passes)
    for client in sorted(every, key=tokens.__getitem__, reverse=True):
        emptiest = min(range(len(passes)), key=filled.__getitem__)
        passes[emptiest].append(client)
        filled[emptiest] += tokens[client]
    place = {client: number for number, client in enumerate(every)}
    return [sorted(together, key=place.__getitem__) for together in passes]


def server_shares(training: TrainingConfig) -> bool:
    """Whether the server, too, takes the clients of a pass together: with the labels, for an update of all of them."""
    return training.server_update == "pooled" and training.labels == "server"


def without_graphs(federation: Federation) -> list[str]:
    """Where ``engine.cuda_graphs`` replays nothing, one sentence a cause."""
    config, plan = federation.config, federation.plan
    if not config.engine.cuda_graphs:
        return []
    nothing = "engine.cuda_graphs does nothing"
    if federation.graphs is None:
        return [f"{nothing}: {federation.device.type} has no CUDA graphs"]
    if plan.one_by_one is not None:
        return [f"{nothing}: with {plan.one_by_one} each client is computed by itself"]
    found = []
    if apart := [client.name for client in plan.clients if client.checkpointing or client.learns != "backprop"]:
        found.append(f"{nothing} for {listed(apart, SHOWN)}: checkpointing, and learns, keep a client by itself")
    if not server_shares(config.training):
        key = "server_update" if config.training.server_update != "pooled" else "labels"
        value = getattr(config.training, key)
        found.append(f"{nothing} at the server, which takes one client after another with training.{key}: {value}")
    return found


def _kind(federation: Federation, client: str) -> object:
    """What clients of one pass have in common; None for a client that is computed alone and padded."""
    party = federation.split_client(client)
    measured = party.usage is not None or federation.server.usage is not None  # client by client
    if party.alone or party.checkpointing or measured:
        return None
    blocks = blocks_of(party.base.model, party.base.family)
    return id(blocks[0]), party.cut, party.lowest, party.prefix and party.prefix.first


def begin_round(federation: Federation, clients: Iterable[str], number: int) -> None:
    """Tell the server which clients it serves in a round: none without a split."""
    members = {client: federation.part_of(client) for client in clients} if federation.split else {}
    federation.server.begin_round(members, number, {client: federation.clients[client].cut for client in members})


def takes_step(federation: Federation, client: str, step: int) -> bool:
    """Whether a client has a local step of this number, from 0: some take fewer in a round."""
    return step < federation.plan.by_name[client].local_steps


def order_of(federation: Federation, cohort: list[str], overall: int) -> list[str]:
    """The clients of a step in the order in which the server takes them.

    A sequential server update depends on it, so it is drawn anew each step; the others do not.
    """
    if federation.config.training.server_update != "sequential":
        return list(cohort)
    order = numpy_generator(federation.config.seed, "order", overall).permutation(len(cohort))
    return [cohort[i] for i in order]
