"""The local steps of a round by themselves, without merge and delivery."""

from atlas_cli.engines.in_process import local_steps
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.parties import exchange as messages


def run_round(federation, cohort, round_number, ledger, on_step):
    """For the clients of ``cohort``, and the server's end of it; what each client did."""
    attendance = Attendance(federation, cohort, round_number)
    attendance.begin()
    done = local_steps(federation, attendance, ledger, on_step)
    federation.server.finish_round(attendance.present)
    return done


def exchange(server, client, batch, round_number, step, ledger):
    """All messages of a client's local step; the gradient message as the client decodes it, and the loss."""
    up = client.forward_batch(batch, round_number, step)
    down, loss = messages.exchange(server, client, batch, up, ledger)
    return client.wire.decode(down), loss
