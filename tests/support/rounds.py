"""The local steps of a round by themselves, without merge and delivery."""

from atlas_cli.engines.in_process import local_steps
from atlas_cli.federation.attendance import Attendance


def run_round(federation, cohort, round_number, ledger, on_step):
    """For the clients of ``cohort``, and the server's end of it; what each client did."""
    attendance = Attendance(federation, cohort, round_number)
    attendance.begin()
    done = local_steps(federation, attendance, ledger, on_step)
    if federation.server is not None:
        federation.server.finish_round(attendance.present)
    return done
