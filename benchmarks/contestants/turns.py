"""Contestants take turns, so that what else the machine does meanwhile hits all of them alike."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol


class Work(NamedTuple):
    """What was in a step: examples, and tokens without padding."""

    samples: int
    tokens: int


class Contestant(Protocol):
    """Anybody who can take one step at a time."""

    def step(self) -> Work:
        """Take the next step."""


@dataclass(frozen=True)
class Timed:
    """One step: wall seconds, what was done in them, and seconds of the processor that this process took."""

    seconds: float
    work: Work
    processor: float = 0.0


Turn = Mapping[str, Timed]


def take_turns(contestants: Mapping[str, Contestant], turns: int, warm_up: int = 1) -> list[Turn]:
    """Let everybody take a step, ``turns`` times, in the order given; steps before ``warm_up`` do not count."""
    taken = [{name: _timed(each) for name, each in contestants.items()} for _ in range(warm_up + turns)]
    return taken[warm_up:]


def _timed(contestant: Contestant) -> Timed:
    began, before = time.perf_counter(), time.process_time()
    work = contestant.step()
    return Timed(time.perf_counter() - began, work, time.process_time() - before)


def ratios(
    taken: Sequence[Turn], fast: str, slow: str, clock: Literal["seconds", "processor"] = "seconds"
) -> list[float]:
    """By turn, how many times as many real tokens ``fast`` does a second as ``slow``.

    Args:
        clock: wall seconds, or those of the processor, which other programs on the machine hardly change. Of who
            computes in another process, only wall seconds are known.

    By tokens and not by steps, because contestants put their batches together in their own ways: the texts of a turn
    are not the same ones, those of an epoch are.
    """

    def per_token(timed: Timed) -> float:
        return (timed.seconds if clock == "seconds" else timed.processor) / timed.work.tokens

    return [per_token(turn[slow]) / per_token(turn[fast]) for turn in taken]


def samples_per_second(taken: Sequence[Turn], name: str) -> float:
    """Examples a second over all turns."""
    return sum(t[name].work.samples for t in taken) / sum(t[name].seconds for t in taken)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and how many."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": middle, "q1": low, "q3": high, "n": len(values)}


class StepByStep:
    """A loop that cannot be left, run in a thread that stops after each of its steps.

    Args:
        loop: gets a function to call after each step; what it raises ends the thread, and is raised by ``step``.
    """

    def __init__(self, loop: Callable[[Callable[[Work], None]], None]) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._work = Work(0, 0)
        self._error: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, args=(loop,), daemon=True)
        self._thread.start()

    def step(self) -> Work:
        """Let the loop go on until its next step is done."""
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error
        return self._work

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._go.release()
        self._thread.join()

    def _run(self, loop: Callable[[Callable[[Work], None]], None]) -> None:
        try:
            self._wait()
            loop(self._after_step)
            raise RuntimeError("the loop ended: it has fewer steps than turns were asked for")
        except _Closed:
            return
        except BaseException as error:
            self._error = error
            self._done.release()

    def _after_step(self, work: Work) -> None:
        self._work = work
        self._done.release()
        self._wait()

    def _wait(self) -> None:
        self._go.acquire()
        if self._closed:
            raise _Closed


class _Closed(BaseException):
    """Not an Exception, so that no loop takes it for one of its own."""
