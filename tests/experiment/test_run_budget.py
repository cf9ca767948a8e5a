"""Runs that write to one ledger at once, and rounds that are trained again after a kill."""

import threading
import time
from dataclasses import replace

import pytest

from atlas_cli.errors import BudgetSpentError, ResourceError
from atlas_cli.experiment.run_budget import RunBudget
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.build import build
from atlas_cli.privacy.account.accounting import gaussian_epsilon
from atlas_cli.privacy.account.ledger import Ledger

Z = 2.0


@pytest.fixture
def toy(make_config):
    """``toy(rounds, then, cohort)``: a federation whose budget is for so many rounds of a client.

    Of cohorts of 0.6 and 3 rounds, b is frozen from round 4 on and a from round 5.
    """

    def make(rounds, then="stop", cohort=1.0):
        privacy = {"updates": {"clip": 0.5, "noise_multiplier": Z, "where": "client"}}
        privacy["budget"] = {"epsilon": gaussian_epsilon(Z, rounds + 0.5, 1e-5), "then": then}
        aggregation = {"method": "zero-pad", "weights": "uniform"}
        return build(
            make_config(seed=2, privacy=privacy, aggregation=aggregation, training={"rounds": 6, "cohort": cohort})
        )

    return make


def on(ledger, federation, run=None):
    protection = federation.protection
    return RunBudget(federation.config, protection.account, protection.budget, federation.data, ledger, run)


def cohorts(federation, until):
    return [federation.protection.account.participation.cohort(number) for number in range(1, until + 1)]


@pytest.mark.slow
def test_runs_at_once_spend_one_budget_together(toy, tmp_path):
    ledger, whole = tmp_path / "ledger.json", toy(4)
    one, two = on(ledger, whole), on(ledger, toy(4))
    for number in (0, 1, 2):
        one.begin(number)
        two.begin(number)
    for late in (one, two):
        with pytest.raises(BudgetSpentError, match="with what earlier runs told"):
            late.begin(3)
    assert [entry.rounds for entry in Ledger(ledger).read()] == [2, 2]
    assert one.budget.spent("a", 2) == {"updates": gaussian_epsilon(Z, 4, 1e-5)}


def test_writers_at_once_lose_nothing_and_none_passes_a_limit(tmp_path, toy):
    """Each adds a round while fewer than 12 are on the ledger; between reading and writing the others would like to."""
    ledger = Ledger(tmp_path / "ledger.json")
    on(ledger.path, toy(4)).begin(0)
    (of_no_round,) = ledger.read()

    def write(run):
        def entry(before):
            spent = {each.run: each.rounds for each in before}
            time.sleep(0.002)
            if sum(spent.values()) == 12:
                raise BudgetSpentError("spent")
            return replace(of_no_round, run=run, rounds=spent.get(run, 0) + 1)

        with pytest.raises(BudgetSpentError):
            while True:
                ledger.add(entry)

    writers = [threading.Thread(target=write, args=(f"run-{n}",)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=60)
    assert sum(each.rounds for each in ledger.read()) == 12


def test_rounds_that_had_begun_are_trained_again_with_their_cohorts_whatever_others_told(toy, tmp_path):
    """Killed in round 4, resumed from round 2, when another run has spent what was left."""
    ledger, killed = tmp_path / "ledger.json", toy(3, "freeze", 0.6)
    run = on(ledger, killed)
    for number in range(3):
        run.begin(number)
    kept = RunState(killed).capture()
    for number in (3, 4):
        run.begin(number)
    drawn, before = cohorts(killed, 4), Ledger(ledger).read()
    other = on(ledger, toy(6, "freeze", 0.6))
    for number in range(4):
        other.begin(number)

    again = toy(3, "freeze", 0.6)
    resumed = on(ledger, again, run.run)
    RunState(again).restore(*kept)
    resumed.require_start(2)
    for number in (3, 4):
        resumed.begin(number)
        assert again.protection.frozen(number) == killed.protection.frozen(number)
    assert cohorts(again, 4) == drawn
    assert [entry for entry in Ledger(ledger).read() if entry.run == run.run] == before and before[0].frozen
    with pytest.raises(BudgetSpentError, match=r"round 5 is not trained: privacy\.budget left 0 clients"):
        resumed.begin(5)


def test_a_run_whose_ledger_froze_others_is_refused(toy, tmp_path):
    ledger, federation = tmp_path / "ledger.json", toy(3, "freeze", 0.6)
    run = on(ledger, federation)
    run.begin(1)
    text = ledger.read_text(encoding="utf-8")
    ledger.write_text(text.replace('"frozen": {}', '"frozen": {"nobody": 1}'), encoding="utf-8")
    with pytest.raises(ResourceError, match=r"froze nobody, which is no client of it"):
        on(ledger, toy(3, "freeze", 0.6), run.run)
    ledger.write_text(text.replace('"frozen": {}', '"frozen": {"a": 0}'), encoding="utf-8")
    with pytest.raises(ResourceError, match=r"frozen has no rounds"):
        Ledger(ledger)
