"""Best rounds on a validation part: which they are, that their models are kept, and that training ends by them."""

import copy
import math

import pytest
import torch

from atlas_cli.experiment import round_loop
from atlas_cli.experiment.adapter_export import export_adapters, export_best
from atlas_cli.experiment.best_rounds import BestRounds
from atlas_cli.experiment.recorder import Scores
from atlas_cli.experiment.run_state import RunState
from atlas_cli.reports.summary import summarise
from atlas_cli.runs.directory import RunDirectory

HELD_OUT = {"validation": 8}
SHORT = {"rounds": 1, "local_steps": 1, "batch_size": 2}
TIMES = ("seconds", "samples_per_second")


@pytest.fixture
def three_groups(make_federation, toy_csv):
    """Three groups; the figure of one is better the lower."""
    data = {"task": "sequence-classification", "data": {"files": toy_csv}}
    clients = {"a": {"task_group": "up"}, "b": {"task_group": "up"}, "c": {"task_group": "down"}}
    made = make_federation(
        task_groups={"up": data, "down": data, "g": data},
        clients={**clients, "d": {"task_group": "g"}},
        holdout=HELD_OUT,
        training={**SHORT, "early_stopping": {"patience": 3, "min_delta": 0.01}},
    )
    task = copy.copy(made.data["down"].task)
    task.better = {**task.better, "accuracy": "lower"}
    object.__setattr__(made.data["down"], "task", task)
    return made


def scores(**figures):
    return Scores(validation={group: {"accuracy": value} for group, value in figures.items()})


def test_the_best_round_and_the_end_by_hand(three_groups):
    """By evaluation: what each group measured, and how many evaluations ago any group last improved."""
    best = BestRounds(three_groups)
    lines = [
        (0, 0.50, 0.90, 0.1, 0),
        (2, 0.60, 0.90, 0.1, 0),  # up improves
        (4, 0.60, 0.89, 0.1, 1),  # down is better by 0.01, which is not more than min_delta, and the best so far
        (6, 0.55, math.nan, 0.1, 2),  # no finite figure is no improvement
        (8, 0.55, 0.885, 0.1, 0),  # better by 0.015 than when it last improved
        (10, 0.605, 0.95, 0.1, 1),  # up is best here, by less than min_delta
        (12, 0.605, 0.95, 0.1, 2),  # of equal ones the first
        (14, 0.1, 0.95, 0.1, 3),
    ]
    for number, up, down, third, since in lines:
        ends = best.after(number, scores(up=up, down=down, g=third))
        assert (best.since, ends, best.stops) == (since, since == 3, since == 3), number
    found = {group: (each.round, each.value) for group, each in best.groups.items()}
    assert found == {"up": (10, 0.605), "down": (8, 0.885), "g": (0, 0.1)}
    assert best.sentence().startswith("no task group has improved on its validation part for 3 evaluations")


def test_a_group_that_improves_lets_all_go_on(three_groups):
    best = BestRounds(three_groups)
    assert not any(best.after(i, scores(up=0.5, down=0.5, g=i / 10)) for i in range(9))
    assert {group: each.since for group, each in best.groups.items()} == {"up": 8, "down": 8, "g": 0}


KEPT = {
    "merged": {},
    "a changed base": {"aggregation": {"method": "flora"}},
    "nothing merged": {"aggregation": {"method": "none"}},
    "own B": {"aggregation": {"method": "fedsa"}},
    "put away": {"aggregation": {"method": "none"}, "engine": {"offload": "1 KiB"}},
    "clusters": {"clustering": {"by": "random", "k": 2}},
    "heads on clients": {"training": {**SHORT, "labels": "client"}},
    "federated": {"mode": "federated"},
    "alone": {"mode": "local-only"},
    "pooled": {"mode": "centralized"},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", KEPT)
def test_what_is_kept_is_what_the_last_round_exports(make_federation, train_quietly, tmp_path, case):
    """Where the last round is the best, byte for byte; later training does not reach what is kept."""
    made = make_federation(holdout=HELD_OUT, output={"dir": str(tmp_path)}, **{"training": SHORT, **KEPT[case]})
    try:
        train_quietly(made)
        best, run = BestRounds(made), RunDirectory(tmp_path)
        best.after(1, scores(g=0.5))
        export_adapters(made, run)
        for group in made.aggregator.groups.values():
            for parameter in group.adapters.parameters():
                parameter.data.zero_()
        (folders,) = export_best(made, run, best).values()
    finally:
        made.close()
    shared = bool(list((tmp_path / "adapters" / "groups").glob("*")))
    kind = "groups" if shared else "clients"
    assert sorted(folders) == sorted(f"best_adapters/{kind}/{p.name}" for p in (tmp_path / "adapters" / kind).iterdir())
    for folder in folders:
        last = tmp_path / folder.removeprefix("best_")
        names = [path.name for path in sorted(last.iterdir())]
        assert names == [path.name for path in sorted((tmp_path / folder).iterdir())] and len(names) == 5
        for name in names:
            assert (tmp_path / folder / name).read_bytes() == (last / name).read_bytes(), (folder, name)


@pytest.fixture
def recorded(train_quietly):
    """Train with a state; the records without times, and the state after each round."""

    def run(federation, done=None, state=None):
        state, kept = state or RunState(federation), {}
        if done is not None:
            state.restore(*done[1])
        keep = lambda number: kept.update({number: state.capture()})  # noqa: E731
        recorder = train_quietly(federation, checkpoint=keep, done=done and done[0], best=state.best)
        lines = [{k: v for k, v in line.items() if k not in TIMES} for line in (*recorder.metrics, *recorder.clients)]
        return lines, kept, recorder.metrics

    return run


def same(one, other):
    return (
        one[1] == other[1]
        and one[0].keys() == other[0].keys()
        and all(torch.equal(value, other[0][name]) for name, value in one[0].items())
    )


FALLING = [0.5, 0.6, 0.7, 0.65, 0.6, 0.9]  # on the validation part, by round


@pytest.fixture
def as_planned(monkeypatch):
    """Evaluations measure what ``FALLING`` says on the validation part; all else is as it is."""
    evaluate = round_loop.evaluate

    def constructed(rounds):
        values = iter(rounds)

        def made(federation):
            found = evaluate(federation)
            return Scores(**{**vars(found), "validation": {"g": {**found.validation["g"], "accuracy": next(values)}}})

        monkeypatch.setattr(round_loop, "evaluate", made)

    return constructed


EARLY = {"rounds": 5, "local_steps": 1, "batch_size": 2, "early_stopping": {"patience": 2}}


@pytest.mark.slow
def test_an_early_end_is_a_run_of_that_many_rounds_and_goes_on_where_it_was(make_federation, recorded, as_planned):
    """With a cohort of one of three clients, the others get the last adapter when training ends."""
    cohort = {"cohort": 0.3}
    as_planned([*FALLING[:5], FALLING[4]])  # the last round is scored again, after the delivery to all
    ended = make_federation(holdout=HELD_OUT, training={**EARLY, **cohort})
    lines, kept, metrics = recorded(ended)
    assert list(kept) == [0, 1, 2, 3, 4]
    as_planned(FALLING)
    shorter = make_federation(holdout=HELD_OUT, training={**EARLY, **cohort, "rounds": 4, "early_stopping": None})
    others, _, _ = recorded(shorter)
    assert lines == others
    assert [line["client"] for line in lines[5:] if line["round"] == 4] == ["a", "b", "c"]
    assert not any(ended.aggregator.is_behind(client) for client in "abc")
    (found,) = summarise(metrics, [])
    assert (found.best_round, found.best_validation, found.chosen_on) == (2, 0.7, "validation")
    assert found.best == metrics[2]["test"]["accuracy"]
    tensors, state = kept[4]
    assert state["best"] == {
        "best": {"g": {"round": 2, "value": 0.7, "reference": 0.7, "since": 2}},
        "ended": True,
    }
    prefix = "best/g/groups/g/"
    of_best = {name: value for name, value in tensors.items() if name.startswith(prefix)}
    then = {name: value for name, value in kept[2][0].items() if name.startswith(prefix)}
    assert of_best and all(torch.equal(value, then[name]) for name, value in of_best.items())


@pytest.mark.slow
def test_a_resumed_run_is_the_unbroken_one_and_more_patience_goes_on(make_federation, recorded, as_planned):
    as_planned(FALLING)
    lines, kept, _ = recorded(make_federation(holdout=HELD_OUT, training=EARLY))
    as_planned(FALLING[4:])
    again, after, _ = recorded(make_federation(holdout=HELD_OUT, training=EARLY), (3, kept[3]))
    assert again == [line for line in lines if line["round"] == 4] and same(after[4], kept[4])
    as_planned([])
    assert recorded(make_federation(holdout=HELD_OUT, training=EARLY), (4, kept[4]))[0] == []
    as_planned([0.9])
    longer = {**EARLY, "early_stopping": {"patience": 3}}
    _, after, _ = recorded(make_federation(holdout=HELD_OUT, training=longer), (4, kept[4]))
    assert after[5][1]["best"]["best"]["g"]["round"] == 5


def test_the_test_part_measures_what_it_does_without_a_validation_part(make_federation, toy_csv, tmp_path, recorded):
    own = tmp_path / "validation.csv"
    own.write_text("text,label\ngood film,pos\npoor film,neg\n", encoding="utf-8")
    plain = {"task": "sequence-classification", "data": {"files": toy_csv}}
    more = {**plain, "data": {**plain["data"], "validation_files": str(own)}}
    ours, theirs = (recorded(make_federation(task_groups={"g": g}, training=SHORT))[0] for g in (more, plain))
    assert all("validation" in line for line in ours if "test" in line)
    assert [{k: v for k, v in line.items() if k != "validation"} for line in ours] == theirs
