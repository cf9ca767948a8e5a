"""atlas, run by the functions that a run calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from atlas_cli.engines.in_process import local_steps
from atlas_cli.experiment.recorder import Recorder
from atlas_cli.experiment.round_loop import set_up, train
from atlas_cli.federation.attendance import Attendance
from atlas_cli.federation.federation import Federation
from atlas_cli.federation.local_work import LocalWork
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal
from atlas_cli.wire.ledger import Ledger
from contestants.turns import StepByStep, Work

FIRST = 2  # in round 1 a run measures memory


def atlas_steps(federation: Federation) -> StepByStep:
    """Local steps of all clients, as in the rounds of a run after its first."""
    return StepByStep(lambda after_step: run_steps(federation, after_step))


def run_steps(federation: Federation, after_step: Callable[[Work], None]) -> None:
    """The rounds from the second on, without what is between their local steps."""
    set_up(federation)
    for number in range(FIRST, federation.config.training.rounds + 1):
        before = Work(0, 0)

        def on_step(_step: int, done: Mapping[str, LocalWork]) -> None:
            nonlocal before
            now = Work(sum(t.examples for t in done.values()), sum(t.tokens for t in done.values()))
            after_step(Work(now.samples - before.samples, now.tokens - before.tokens))
            before = now

        attendance = Attendance(federation, list(federation.clients), number)
        attendance.begin()
        local_steps(federation, attendance, Ledger(), on_step)


def atlas_rounds(federation: Federation) -> StepByStep:
    """Whole rounds: local steps, upload, merge, delivery, checks and records (kept in memory).

    The first two turns are round 0, which delivers the base, and round 1, which measures memory.
    """
    progress = PlainProgress(Terminal(quiet=True))
    training = federation.config.training
    progress.start(training.rounds, training.local_steps, federation.group_names)
    recorder = Recorder(federation, None, progress)

    def loop(after_step: Callable[[Work], None]) -> None:
        def after_round(number: int) -> None:
            lines = [line for line in recorder.metrics if line["round"] == number]
            samples, tokens = (sum(int(str(line[key])) for line in lines) for key in ("examples", "tokens"))
            after_step(Work(samples, tokens))

        train(federation, recorder, after_round)

    return StepByStep(loop)
