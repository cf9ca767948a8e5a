"""Local steps of clients that share passes: on several cores, several passes at one time.

The client's forward, the server's part and the client's backward of a pass are one piece of work. The server takes the
gradients of passes, and the ledger their messages, in one order, whichever was computed first.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple, Self

from atlas_cli.data.collate import Batch
from atlas_cli.engines.passes import server_shares
from atlas_cli.errors import during
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.local_work import LocalWork
from atlas_cli.federation.parties.exchange import enter_all, exchange
from atlas_cli.federation.parties.shared_client_pass import ClientPass
from atlas_cli.federation.parties.trainables import GradientSums, StepLoss
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.frozen.own_modules import with_own_modules
from atlas_cli.plugin_code import are_foreign
from atlas_cli.printable import listed
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import Activations, Gradients
from atlas_cli.workers import Workers, side_by_side


class _Served(NamedTuple):
    """What was computed of a pass: its messages with the losses, and the gradients that the server has to accept."""

    ups: Sequence[Activations]
    answers: Sequence[tuple[Gradients, StepLoss]]
    sums: Sequence[GradientSums]


class SharedSteps:
    """The shared passes of a round.

    Args:
        number: of the round.

    Attributes:
        at_once: how many passes are computed at one time.
    """

    def __init__(self, federation: Federation, number: int) -> None:
        self.federation, self.number, self.at_once = federation, number, _at_once(federation)
        self._workers = Workers(self.at_once)
        self._bases: dict[int, list[FrozenBase]] = {}  # one for each worker, by the base that they are of

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._workers.close()

    def take(
        self,
        passes: Sequence[Mapping[str, Batch]],
        step: int,
        factor: float,
        ledger: Ledger,
        done: Mapping[str, LocalWork],
    ) -> None:
        """Take a step of the clients of these passes; the time it takes is shared out among them by tokens.

        Args:
            factor: of learning rates.

        Raises:
            NonFiniteError: the clients of its pass did not step.
        """
        began, server = time.perf_counter(), self.federation.server
        works = [(self._pass_of(batches), batches) for batches in passes]

        def compute(worker: int, work: tuple[ClientPass, Mapping[str, Batch]]) -> _Served:
            with during(f"clients {listed(work[1])}, step {step}"):
                return self._served(worker, *work, step, factor, ledger)

        for (together, batches), served in zip(works, self._workers.in_order(compute, works), strict=True):
            if server_shares(self.federation.config.training):
                downs = [down for down, _ in served.answers]
                enter_all(server, together.clients, list(batches.values()), served.ups, downs, ledger)
                server.accept(served.sums)
            for (client, batch), (_, loss) in zip(batches.items(), served.answers, strict=True):
                done[client].add(batch, loss, seconds=0.0)
        tokens = {client: batch.n_tokens for batches in passes for client, batch in batches.items()}
        seconds_a_token = (time.perf_counter() - began) / sum(tokens.values())
        for client, own in tokens.items():
            done[client].seconds += seconds_a_token * own

    def _pass_of(self, batches: Mapping[str, Batch]) -> ClientPass:
        """The pass of these clients; each worker has modules for it, made before anything is attached to any."""
        clients = [self.federation.split_client(client) for client in batches]
        together = ClientPass(clients, self.federation.graphs)
        for base in (together.base, self.federation.server.base):
            if id(base) not in self._bases:
                self._bases[id(base)] = [base, *(with_own_modules(base) for _ in range(1, self.at_once))]
        return together

    def _served(
        self,
        worker: int,
        together: ClientPass,
        batches: Mapping[str, Batch],
        step: int,
        factor: float,
        ledger: Ledger,
    ) -> _Served:
        """Compute a pass with the modules of a worker."""
        training, server, each = self.federation.config.training, self.federation.server, list(batches.values())
        together.base, above = (self._bases[id(base)][worker] for base in (together.base, server.base))
        ups = together.forward(each, self.number, step)
        sums: Sequence[GradientSums] = ()
        if server_shares(training):
            answers, sums = server.answers_and_sums(ups, above)
        else:
            answers = []
            for party, batch, up in zip(together.clients, each, ups, strict=True):
                answers.append(exchange(server, party, batch, up, ledger))
                server.accept()
        together.backward([down for down, _ in answers])
        for party in together.clients:
            party.step(factor * training.client_optimizer.lr)
        return _Served(ups, answers, sums)


def _at_once(federation: Federation) -> int:
    """One pass at a time where the server takes clients in turn, and where one pass may change what another reads:
    a cached prefix counts its uses, compiled blocks are those of one base, code of other packages may keep anything."""
    config, server = federation.config, federation.server
    apart = config.engine.compile or config.engine.prefix_cache is not None
    heads = chain.from_iterable(head.modules() for head in server.heads.values())
    foreign = are_foreign([server.base.family, *server.tasks.values(), *heads])
    if apart or foreign or not server_shares(config.training):
        return 1
    return side_by_side(federation.device)
