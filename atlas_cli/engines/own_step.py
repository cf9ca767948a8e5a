"""A local step of one client by itself, in one process with the server."""

from __future__ import annotations

import time
from collections.abc import Callable

from atlas_cli.data.collate import Batch
from atlas_cli.errors import NonFiniteError
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.local_work import LocalWork
from atlas_cli.wire.ledger import Ledger

OnStep = Callable[[int, dict[str, LocalWork]], None]


def own_step(
    federation: Federation,
    attendance: Attendance,
    ledger: Ledger,
    client: str,
    batch: Batch,
    when: tuple[int, int],
    factor: float,
    did: LocalWork,
) -> None:
    """One step of one client; it leaves ``attendance`` where it is dropped.

    Args:
        when: the round and the step that it is of.
        factor: of learning rates.
        did: the client's work, which the step is added to.
    """
    began, server = time.perf_counter(), federation.server
    try:
        loss = federation.clients[client].local_step(batch, *when, factor, server, ledger)
        did.add(batch, loss, time.perf_counter() - began)
        late = attendance.passes_deadline(client, did, ledger, when[1])
        if not late:
            server.accept()
    except NonFiniteError as error:
        if federation.config.training.on_nonfinite == "stop":
            raise
        attendance.drop(client, str(error).partition(";")[0])
    if client not in attendance.present:
        server.reject()
