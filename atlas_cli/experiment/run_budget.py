"""A run and its privacy budget: what is asked and written before every round, and what is told of it.

The ledger gets what a run will have told by the end of a round before that round begins; other runs that write to it
meanwhile are counted from the next round on.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.data.prepare import PreparedGroup, row_hashes
from atlas_cli.errors import BudgetSpentError, ConfigError, ResourceError
from atlas_cli.privacy.account.accounting import CHANNELS
from atlas_cli.privacy.account.budget import Budget
from atlas_cli.privacy.account.epsilon_account import EpsilonAccount
from atlas_cli.privacy.account.ledger import Entry, Ledger, Told, require_other_noise, told_before
from atlas_cli.runs.resumable import experiment_sha256


class RunBudget:
    """The budget of a run and the ledger that it writes to; each may be absent.

    Args:
        account: of the run, with its multipliers; ``budget``: of its config, None without ``privacy.budget``.
        data: of all task groups, for the hashes of rows.
        ledger: its file.
        run: the run's name on the ledger; None: a new one.

    Raises:
        ConfigError: no ledger counts such a run, or another experiment on it drew the same noise.
        ResourceError: the ledger cannot be read, or has nothing of a run that wrote to it.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        account: EpsilonAccount,
        budget: Budget | None,
        data: Mapping[str, PreparedGroup],
        ledger: Path | None = None,
        run: str | None = None,
    ) -> None:
        self.config, self.account, self.budget = config, account, budget
        self.ledger, self.run = None, run or secrets.token_hex(8)
        self._started = datetime.now().astimezone().isoformat(timespec="seconds")
        self._others: list[Entry] | None = None
        self.sharing = 0
        if ledger is None:
            return
        _require_counted(config)
        self.ledger = Ledger(ledger)
        self._rows = {client: hashes for group in data.values() for client, hashes in row_hashes(group).items()}
        entries = self.ledger.read()
        if run is not None and all(entry.run != run for entry in entries):
            raise ResourceError(
                f"{ledger} has nothing of this run, which wrote to a ledger; give that file with --ledger FILE"
            )
        everything = {row for rows in self._rows.values() for row in rows}
        require_other_noise(entries, everything, self.run, config.seed, experiment_sha256(config))
        self._take_in(entries)
        if (
            own := next((entry for entry in entries if entry.run == self.run), None)
        ) is not None and budget is not None:
            if unknown := sorted(own.frozen.keys() - self._rows.keys()):
                raise ResourceError(f"{ledger} is damaged: run {self.run} froze {unknown[0]}, which is no client of it")
            budget.settle(own.frozen, own.rounds)

    def _take_in(self, entries: list[Entry]) -> None:
        others = [entry for entry in entries if entry.run != self.run]
        if others == self._others:
            return
        self._others = others
        units = dict.fromkeys(CHANNELS, "example")
        units["fingerprints"] = "client"
        if self.config.privacy.updates is not None:
            units["updates"] = "client"
        prior = told_before(others, self._rows, units)
        self.sharing = len(prior)
        if self.budget is not None:
            self.budget.told_before(prior)

    def notes(self) -> list[str]:
        """What is to be said before training."""
        found = []
        if self.ledger is not None:
            runs, clients = len(self._others or ()), len(self._rows)
            seen = f"{runs} earlier run{'s' * (runs != 1)} on it" if runs else "no earlier run is on it"
            told = f", with rows of {self.sharing} of {clients} clients" if runs else ""
            found.append(f"note: privacy ledger {self.ledger.path}: {seen}{told}")
        if self.budget is not None:
            found += [f"warning: {text}" for text in self.budget.notes(self.config.training.rounds)]
        return found

    def begin(self, number: int) -> None:
        """Before a round, or what is sent before the first (0): check the budget, and write what will be told.

        Raises:
            BudgetSpentError: it would pass a budget; nothing was written.
            OutputError: the ledger cannot be written.
        """
        if self.ledger is not None:
            self.ledger.add(lambda entries: self._entry(entries, number))
        elif self.budget is not None:
            self.budget.require(number)

    def _entry(self, entries: list[Entry], number: int) -> Entry:
        self._take_in(entries)
        if self.budget is not None:
            self.budget.require(number)
        clients = {}
        for client, rows in self._rows.items():
            use = self.account.participation.use(client, number)
            events = {channel: self.account.events(channel, client, use, number) for channel in CHANNELS}
            clients[client] = Told(tuple(rows), {c: event for c, event in events.items() if event is not None})
        config, frozen = self.config, self.budget.frozen_so_far() if self.budget is not None else {}
        sha256 = experiment_sha256(config)
        return Entry(self.run, config.name, self._started, config.seed, sha256, number, clients, frozen)

    def is_last(self, number: int) -> bool:
        """Whether a round is the last that the budget allows."""
        if self.budget is None or (end := self.budget.end(number)) is None or end.number > number + 1:
            return False
        self.budget.finished = True
        return True

    def is_over(self, number: int) -> bool:
        """Whether training ended before a round, which the one before it was trained as the last for."""
        return self.budget is not None and self.budget.finished and self.is_last(number - 1)

    def require_start(self, done: int = 0, over: bool = False) -> None:
        """Check before anything is written that a round is left to train after ``done``.

        Args:
            over: training has ended, and may not only be finished.

        Raises:
            BudgetSpentError: none is.
        """
        if self.budget is None or (end := self.budget.end(done)) is None or end.number > done + 1:
            return
        if over or not self.budget.finished:
            raise BudgetSpentError(f"{end.sentence()}; {self.budget.remedy()}")

    def why(self, last: int) -> dict[str, Any] | None:
        """For the manifest: where and why the budget ended training; None if it did not."""
        if self.budget is None or not self.budget.finished or (end := self.budget.end(last)) is None:
            return None
        return {"after_round": last, "of": self.config.training.rounds, "why": end.sentence()}

    def record(self) -> dict[str, Any]:
        """For the manifest, under ``privacy``: what was spent of the budget, and the ledger."""
        found: dict[str, Any] = {}
        if self.ledger is not None:
            found["ledger"] = {"file": str(self.ledger.path.absolute()), "run": self.run}
        if self.budget is not None:
            found["budget"] = {"frozen": self.budget.frozen_so_far()}
        return found


def _require_counted(config: ExperimentConfig) -> None:
    if config.mode in ("local-only", "centralized"):
        raise ConfigError(f"--ledger counts what clients send, and in mode {config.mode} they send nothing", key="mode")
    if (words := config.privacy.replaces_tokens()) is not None:
        raise ConfigError(
            "--ledger counts what is sent of words again and again, and here they are replaced once, of which no "
            "ledger knows; leave it out",
            key=f"privacy.{words}",
        )
    if config.privacy.clients_per_user > 1:
        raise ConfigError(
            "--ledger knows rows and who held them, and not which clients are one user's; leave either out",
            key="privacy.clients_per_user",
        )
    if config.training.asynchrony is not None:
        raise ConfigError(
            "--ledger counts cohorts of rounds, and here clients take part at their own pace", key="training.asynchrony"
        )
