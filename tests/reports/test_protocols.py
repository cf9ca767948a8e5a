"""Budgets, targets and disturbances against curves made by hand."""

import pytest

from atlas_cli.errors import ConfigError
from atlas_cli.reports.page.records import RunRecords
from atlas_cli.reports.protocols.budget import parse_budget, peak_memory
from atlas_cli.reports.protocols.leaderboard import Goal, Run, cost, quality, robustness
from atlas_cli.reports.protocols.sheets import leaderboard_pictures, leaderboard_sheet
from atlas_cli.statistics import over_seeds, student


def run(test, validation=None, seconds=10.0, better="higher", memory=None, **values):
    """A run that spends 10 s, 5 J and 30 bytes a round, and is scored in each; None: not evaluated then."""
    rows = []
    for number, value in enumerate(test):
        row = {
            **{"round": number, "task_group": "g", "metric": "f1", "better": better, "models": 1, "train_loss": 1.0},
            **{"test": {} if value is None else {"f1": value}, "bytes_up": 10, "bytes_down": 20, "examples": 1},
            **{"tokens": 1, "seconds": 1.0, "aggregation_error": None, "dropped": {}, "participants": []},
            "simulated_seconds": seconds if number else None,
            "simulated_joules": 5.0 if number else None,
        }
        if validation is not None:
            row["validation"] = {"f1": validation[number]}
        rows.append(row)
    config = {"clients": {"small": {"task_group": "g"}, "big": {"task_group": "g"}, "other": {"task_group": "h"}}}
    manifest = {"config": config, "data": {"g": {"train": 1, "test": 1}}, "status": "finished"}
    return Run(values, RunRecords("run", "run", manifest, rows, [], [], [], memory, None, going_on=False))


def only(entries):
    (entry,) = entries
    return entry


def test_the_quality_is_that_of_the_best_round_within_all_limits():
    curve = {"test": [0.1, 0.5, 0.9, 0.7, 0.8], "validation": [0.1, 0.6, 0.5, 0.6, 0.9]}
    plain = run(curve["test"])

    def chosen(budget, which):
        return [(entry.value, entry.rounds) for entry in quality([which], parse_budget(budget))]

    # validation chooses, the first of ties; without it the last round within, though the test part has a better one
    assert chosen("time=30 s", run(**curve)) == [(0.5, [1])]
    assert chosen("time=30 s", plain) == [(0.7, [3])]
    assert chosen("time=29.9 s", plain) == [(0.9, [2])]
    assert chosen("time=1 h, bytes=90 B", plain) == [(0.7, [3])]
    assert chosen("time=1 h, energy=0.01 kJ", plain) == [(0.9, [2])]
    assert chosen("time=1 h", run(**curve)) == chosen(None, run(**curve)) == [(0.8, [4])]
    assert chosen("time=9 s", plain) == [(None, [])]
    assert chosen("time=30 s", run([0.1, None, 0.4, None])) == [(0.4, [2])]  # not every round is evaluated
    unknown = only(quality([run([0, 1.0], seconds=None)], parse_budget("time=1 h")))
    assert unknown.value is None and unknown.why == ["no time in its records"] and not unknown.infeasible


def test_settings_are_ranked_over_their_seeds():
    runs = [run([0, a, b], seed=seed, rank=rank) for rank, seed, a, b in [
        ("2", "0", 0.3, 0.5), ("2", "1", 0.3, 0.7), ("4", "0", 0.9, 0.8), ("4", "1", 0.7, 0.8),
    ]]  # fmt: skip
    runs.append(run([0, 0.1], seed="0", rank="8", seconds=99.0))
    four, two, eight = quality(runs, {"time": 20.0})
    assert (four.setting, four.value, four.interval) == ("rank=4", 0.8, None)  # seeds do not vary
    assert two.value == pytest.approx(0.6) and two.interval == pytest.approx((0.6 - 12.7062 * 0.1, 0.6 + 12.7062 * 0.1))
    assert (eight.value, eight.infeasible, eight.spent["time"]) == (None, True, None)
    assert two.spent == {"time": 20, "energy": 10, "bytes": 60, "memory": None}
    sheet = leaderboard_sheet("quality-under-budget", [four, two, eight], "time=20 s")
    assert [row[4] for row in sheet.rows][2] == "infeasible"
    assert "g, rank=8: 1 of 1 in no figure: no evaluated round within the budget" in sheet.notes
    ((name, picture),) = leaderboard_pictures("quality-under-budget", [four, two, eight])
    assert name == "leaderboard-g" and picture.count("<circle") == 2


def test_a_target_that_is_never_reached_costs_more_than_was_spent():
    runs = [
        run([0, 0.5, 0.6, 0.9], rank="2", seed="0"),
        run([0, 0.9, 0.1, 0.2], rank="2", seed="1"),
        run([0, 0.1, 0.1, 0.2], rank="2", seed="2"),
        run([0, 0.2, 0.2], rank="4", seed="0"),
        run([0, 0.2, 0.2, 0.2], rank="4", seed="1"),
    ]
    two, four = cost(runs, Goal({"f1": 0.85}))
    assert (two.counted, two.runs, two.rounds, two.value, two.interval) == (2, 3, [3, 1], 20.0, (10.0, 30.0))
    assert two.spent == {"time": 20, "energy": 10, "bytes": 60, "memory": None} and two.least is None
    assert four.value is None and four.least == {"time": 20, "energy": 10, "bytes": 60, "memory": None}
    sheet = leaderboard_sheet("cost-to-target", [two, four], "f1=0.85")
    assert sheet.rows[1][3] == "0 of 2" and sheet.rows[1][-4] == "> 20.000"
    assert [len(list(leaderboard_pictures("cost-to-target", each))) for each in ([two, four], [four])] == [1, 0]
    lower = [run([9, 5, 2, 3], better="lower", seconds=None)]
    assert only(cost(lower, Goal({"f1": 2.5}))).rounds == [2] and only(cost(lower, Goal({"f1": 2.5}))).price == "energy"


def test_what_is_kept_under_faults_is_of_the_same_seed():
    runs = [
        run([0, value], seed=seed, rank=rank, **{"faults.drop": drop})
        for rank, seed, drop, value in [
            *[("2", "0", "0", 0.8), ("2", "0", "0.3", 0.4), ("2", "1", "0", 0.5), ("2", "1", "0.3", 0.5)],
            *[("4", "0", "0", 0.8), ("4", "0", "0.3", 0.72), ("4", "0", "0.6", 0.64), ("4", "1", "0.3", 0.6)],
        ]
    ]
    entries = robustness(runs, {}, {"faults.drop": "0"})
    assert [(e.setting, e.perturbed, e.counted, e.runs) for e in entries] == [
        *[("rank=4", "faults.drop=0.3", 1, 2), ("rank=4", "faults.drop=0.6", 1, 1)],
        ("rank=2", "faults.drop=0.3", 2, 2),
    ]
    assert [e.value for e in entries] == pytest.approx([0.9, 0.8, 0.75])
    assert entries[0].why == ["no undisturbed run"]
    lower = [run([0, 4.0], better="lower", d="0"), run([0, 5.0], better="lower", d="1")]
    assert only(robustness(lower, {}, {"d": "0"})).value == pytest.approx(0.8)


def test_memory_is_the_peak_of_the_largest_client_of_the_task_group():
    def measured(**sizes):
        return {"clients": {name: {"total": size} for name, size in sizes.items()}, "not_measured": []}

    clients = {"small-0": 10, "small-1": 30, "big": 20, "other": 99}
    known = measured(**clients)
    assert peak_memory(run([0], memory=known).records, "g") == 30
    for unknown in (None, measured(small=10, other=99), {**known, "not_measured": ["small-2"]}):
        assert peak_memory(run([0], memory=unknown).records, "g") is None
    assert peak_memory(run([0], memory={**known, "not_measured": ["other-1", "the server"]}).records, "g") == 30
    runs = [run([0, 0.5], memory=known)]
    assert [only(quality(runs, parse_budget(f"memory={size} B"))).infeasible for size in (29, 30)] == [True, False]
    assert only(quality([run([0, 0.5])], parse_budget("memory=1 GiB"))).why == ["no memory in its records"]


@pytest.mark.parametrize(("held", "reached"), [(1, [1]), (2, [4]), (3, [4]), (4, [])])
def test_a_target_may_have_to_be_held(held, reached):
    runs = [run([0, 0.9, 0.2, None, 0.8, None, 0.9, 0.8, 0.1])]
    assert only(cost(runs, Goal({"f1": 0.8}, held))).rounds == reached


def test_costs_are_multiples_of_the_baseline_in_the_seeds_where_both_reached():
    runs = [
        run([0] * late + [0.9], rank=rank, seed=str(seed), seconds=seconds)
        for rank, seconds, rounds in (("2", 10.0, (2, 2, 9)), ("4", 30.0, (1, 4, 3)))
        for seed, late in enumerate(rounds)
    ]
    runs[2] = run([0, 0.1], rank="2", seed="2")  # never
    four, two = cost(runs, Goal({"f1": 0.85}), baseline="rank=2")
    assert (four.setting, four.pairs, two.pairs) == ("rank=4", 2, 2)
    # 30 against 20 s and 120 against 20 s; 1 against 2 rounds and 4 against 2
    assert four.ratios == {"time": 3.75, "energy": 1.25, "bytes": 1.25, "memory": None}
    assert two.ratios == {"time": 1, "energy": 1, "bytes": 1, "memory": None}
    sheet = leaderboard_sheet("cost-to-target", [four, two], "f1=0.85")
    assert sheet.columns[-1].name == "x baseline" and sheet.rows[0][-1] == "3.750 time (2 of 3)"
    (alone,) = cost(runs[3:], Goal({"f1": 0.85}), baseline="rank=2")
    assert alone.pairs == 0 and set(alone.ratios.values()) == {None}


def test_a_target_costs_more_when_perturbed():
    runs = [run([0] * late + [0.9], seed=seed, d=d) for seed, d, late in [("0", "0", 2), ("0", "1", 3), ("1", "0", 2)]]
    runs.append(run([0, 0.9, 0.1], seed="1", d="1"))
    plain = only(robustness(runs, {}, {"d": "0"}))
    asked = only(robustness(runs, {}, {"d": "0"}, Goal({"f1": 0.85})))
    assert plain.ratios is None and asked.ratios["time"] == 1.0 and asked.pairs == 2  # 1.5 and .5
    held = only(robustness(runs, {}, {"d": "0"}, Goal({"f1": 0.85}, held=2)))
    assert held.pairs == 0 and held.value == asked.value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tiem=2 h", "'tiem=2 h' is no limit; did you mean time?"),
        ("2 h", "'2 h' is no limit; expected one of: bytes, energy, memory, time; write e.g. 'time=2 h"),
        ("time=2", "time: '2' has no unit"),
        ("bytes=-1 MB", "must be above zero"),
        ("energy=5 W", "not a unit of an energy; write J or Wh"),
        ("time=1 h, time=2 h", "time is given twice"),
        ("", "'' is no limit"),
    ],
)
def test_what_is_no_budget(text, says):
    with pytest.raises(ConfigError) as error:
        parse_budget(text)
    assert says in str(error.value) and str(error.value).startswith("--budget: ")


def test_students_interval():
    table = {1: 12.70620474, 2: 4.30265273, 3: 3.18244631, 4: 2.77644511, 9: 2.26215716, 30: 2.04227246}
    assert {degrees: student(degrees) for degrees in table} == pytest.approx(table, rel=1e-8)
    assert over_seeds([1.0]) is None and over_seeds([1.0, 1.0]) is None
