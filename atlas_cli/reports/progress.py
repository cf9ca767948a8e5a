"""The progress of a run: a live display on a terminal, one line per round elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from atlas_cli.printable import printable
from atlas_cli.reports.summary import Record, primary_metric
from atlas_cli.reports.terminal import SPINNER, Terminal
from atlas_cli.units import format_bytes_mb, format_number, format_seconds

SHOWN_DROPS = 4  # clients that a round's line names with their reason
PATIENCE = 10.0  # seconds until a file is told how far something is that is counted; then after twice as many each time


class Progress(Protocol):
    """A display of the round loop; rounds and steps count from 1, round 0 is the evaluation before training."""

    def doing(self, what: str, done: int = 0, of: int | None = None) -> None:
        """Say what takes time outside of rounds, e.g. ``reading model and data``.

        Args:
            done, of: how many are done and how many there are, where they are counted, e.g. files that are written.
        """

    def keep(self, log: Callable[[str], None]) -> None:
        """Give every line that is shown to ``log``, too; first those that were shown before."""

    def start(self, total_rounds: int, local_steps: int, groups: Sequence[str]) -> None:
        """Begin to show."""

    def step(self, round: int, step: int, losses: Mapping[str, float], examples: int) -> None:
        """A local step is done: its loss by task group, and the examples of all clients in it."""

    def round_end(self, round: int, rows: Sequence[Record]) -> None:
        """A round is done: its metrics records."""

    def kept(self, round: int) -> None:
        """A round is kept: whatever ends the run now, it goes on after this one."""

    def note(self, text: str) -> None:
        """Print a note; it stays on the screen."""

    def stop(self) -> None:
        """End the display; may be called twice."""

    def __enter__(self) -> Self:
        """Itself; ``start`` begins the display."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, whatever happened."""
        self.stop()


def progress_for(console: Terminal) -> Progress:
    """Live on a terminal, plain in a file, a pipe or a log."""
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)


def round_line(round: int, total_rounds: int, rows: Sequence[Record]) -> str:
    """``round 3/10  questions loss 0.812 accuracy 0.743  spam ...  412 samples/s  1.20 MB up``; one line, to grep."""
    parts = [f"round {round}/{total_rounds}"]
    for row in rows:
        words = [row["task_group"]]
        if row["train_loss"] is not None:
            words.append(f"loss {format_number(row['train_loss'])}")
        metric = primary_metric([row])
        if metric:
            validated = (row.get("validation") or {}).get(metric)
            words.append(f"{metric} {format_number(row['test'][metric])}")
            words += [f"(validation {format_number(validated)})"] if validated is not None else []
        parts.append(" ".join(words))
    timed = [row for row in rows if row["samples_per_second"]]
    if timed:
        seconds = sum(row["examples"] / row["samples_per_second"] for row in timed)
        parts.append(f"{sum(row['examples'] for row in timed) / seconds:.0f} samples/s")
    parts.append(f"{format_bytes_mb(sum(row['bytes_up'] for row in rows))} up")
    dropped = [f"{client} ({reason})" for row in rows for client, reason in row["dropped"].items()]
    if dropped:
        more = f" and {len(dropped) - SHOWN_DROPS} more" if len(dropped) > SHOWN_DROPS else ""
        parts.append(f"dropped {', '.join(dropped[:SHOWN_DROPS])}{more}")
    return "  ".join(parts)


def _counted(what: str, done: int, of: int) -> str:
    return f"{what}: {done:,} of {of:,}"


class PlainProgress(Progress):
    """One line a round; nothing that moves.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, console: Terminal, clock: Callable[[], float] = time.monotonic) -> None:
        """Print to ``console``."""
        self.console, self.clock = console, clock
        self.total_rounds = 0
        self.counting: str | None = None
        self.early: list[str] = []  # shown before there was a log
        self.log: Callable[[str], None] = self.early.append

    def doing(self, what: str, done: int = 0, of: int | None = None) -> None:
        """Shown where it is counted and takes long: else a line a note and a round is enough in a file."""
        now = self.clock()
        if what != self.counting:
            self.counting, self.counted_since, self.patience = what, now, PATIENCE
        elif of is not None and now - self.counted_since >= self.patience:
            self.patience *= 2
            self.note(_counted(what, done, of))

    def keep(self, log: Callable[[str], None]) -> None:
        """From here on lines go to the log, too."""
        for line in self.early:
            log(line)
        self.early.clear()
        self.log = log

    def start(self, total_rounds: int, local_steps: int, groups: Sequence[str]) -> None:
        """Remember the number of rounds."""
        self.total_rounds = total_rounds

    def step(self, round: int, step: int, losses: Mapping[str, float], examples: int) -> None:
        """Steps are not shown."""

    def round_end(self, round: int, rows: Sequence[Record]) -> None:
        """Print the line of the round."""
        self.note(round_line(round, self.total_rounds, rows))

    def kept(self, round: int) -> None:
        """Not shown."""

    def note(self, text: str) -> None:
        """Print a line, unwrapped."""
        self.console.say(text)
        self.log(text)

    def stop(self) -> None:
        """Nothing to end."""


class LiveProgress(PlainProgress):
    """Round, step, loss by task group, samples a second and remaining time, redrawn in place.

    A line a round stays above.
    """

    window = 20  # steps over which the rate is taken

    def __init__(self, console: Terminal, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is shown before ``doing`` or ``start``."""
        super().__init__(console, clock)
        self.live: Live | None = None
        self.spinner: Spinner | None = None

    def doing(self, what: str, done: int = 0, of: int | None = None) -> None:
        """Turn a spinner beside the words."""
        text = Text(printable(what if of is None else _counted(what, done, of)))
        if self.spinner is None:
            self.spinner = Spinner(SPINNER, text)
        else:  # which turns on
            self.spinner.update(text=text)
        self._draw()

    def start(self, total_rounds: int, local_steps: int, groups: Sequence[str]) -> None:
        """Draw rounds and steps from here on."""
        super().start(total_rounds, local_steps, groups)
        self.spinner = None
        self.local_steps = local_steps
        self.losses: dict[str, float | None] = dict.fromkeys(groups)
        self.position = (1, 0)
        self.began = self.clock()
        self.steps_here = 0  # a resumed run starts in the middle: only its own steps tell its pace
        self.recent: deque[tuple[float, int]] = deque([(self.began, 0)], maxlen=self.window + 1)
        self._draw()

    def _draw(self) -> None:
        if self.live is None:
            self.live = Live(get_renderable=self.render, console=self.console, refresh_per_second=4, transient=True)
            self.live.start()

    def step(self, round: int, step: int, losses: Mapping[str, float], examples: int) -> None:
        """Take in a step; it shows at the next redraw."""
        self.position = (round, step)
        self.losses.update(losses)
        self.steps_here += 1
        self.recent.append((self.clock(), examples))

    def round_end(self, round: int, rows: Sequence[Record]) -> None:
        """Print the line of the round above the display."""
        super().round_end(round, rows)
        now = self.clock()
        if not self.steps_here:
            self.began = now  # the evaluation of round 0 says nothing about the pace of a round
        self.recent = deque([(now, 0)], maxlen=self.window + 1)

    def stop(self) -> None:
        """Clear the display; the lines above it stay."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def render(self) -> Group:
        """What is on the screen now."""
        if self.spinner is not None:
            return Group(self.spinner)
        round_, step = self.position
        done = (round_ - 1) * self.local_steps + step
        total = self.total_rounds * self.local_steps
        head = Text(f"round {round_}/{self.total_rounds}  step {step}/{self.local_steps}")
        seconds = self.recent[-1][0] - self.recent[0][0]
        if seconds > 0:
            head.append(f"  {sum(n for _, n in list(self.recent)[1:]) / seconds:.0f} samples/s")
        if self.steps_here:
            pace = (self.clock() - self.began) / self.steps_here
            head.append(f"  {format_seconds(round(pace * (total - done)))} left")
        grid = Table.grid(padding=(0, 2))
        for group, loss in list(self.losses.items()):  # drawn by another thread
            grid.add_row(
                Text(f"  {printable(group)}"), Text("loss " + (format_number(loss) if loss is not None else "-"))
            )
        return Group(head, ProgressBar(total=total, completed=done, width=40), grid)
