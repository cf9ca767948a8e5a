import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_cli.config.cohorts import cohort_size
from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.planning.cohort import sample_cohort
from atlas_cli.seeding import numpy_generator


class Stub:
    """As much of a plan as sampling reads."""

    def __init__(self, sizes, share, seed=0):
        self.config = ExperimentConfig.model_validate(
            {
                "name": "x",
                "seed": seed,
                "model": {"name": "bert"},
                "task_groups": {g: {"task": "causal-lm", "data": {"files": "x.txt"}} for g in sizes},
                "clients": {g: {"task_group": g, "count": n} for g, n in sizes.items()},
                "training": {"cohort": share},
            }
        )
        self.specs = self.config.expanded_clients()
        self.clients = {spec.name: None for spec in self.specs}
        self.group_names = list(sizes)

    def names(self, group):
        return [s.name for s in self.specs if s.task_group == group]

    def in_order(self, clients):
        return [s.name for s in self.specs if s.name in clients]


sizes = st.dictionaries(st.sampled_from(["g", "h", "i"]), st.integers(1, 9), min_size=1)


@given(sizes, st.floats(0.01, 1.0), st.integers(1, 50), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_share_of_each_group_at_least_one_in_the_order_of_the_config(sizes, share, number, seed):
    plan = Stub(sizes, share, seed)
    cohort = sample_cohort(plan, number)
    assert len(set(cohort)) == len(cohort)
    assert cohort == [c for c in plan.clients if c in cohort]
    for group, n in sizes.items():
        chosen = len(set(cohort) & set(plan.names(group)))
        assert 1 <= chosen <= n
        assert abs(chosen - max(1, share * n)) <= 0.5
    assert sample_cohort(Stub(sizes, share, seed), number) == cohort


def plainly(plan, number, busy=(), frozen=()):
    """The cohort by its definition, going through all clients."""
    chosen = []
    for group in plan.group_names:
        members = plan.names(group)
        size = cohort_size(plan.config.training.cohort, len(members))
        order = numpy_generator(plan.config.seed, "cohort", group, number).permutation(len(members))
        idle = [members[i] for i in order if members[i] not in busy and members[i] not in frozen]
        chosen += idle[: max(0, size - sum(member in busy for member in members))]
    return plan.in_order(chosen)


@given(sizes, st.floats(0.01, 1.0), st.integers(1, 50), st.integers(0, 99), st.data())
@settings(max_examples=60, deadline=None)
def test_only_as_many_are_looked_at_as_are_drawn(sizes, share, number, seed, data):
    plan = Stub(sizes, share, seed)
    some = st.lists(st.sampled_from(list(plan.clients)))
    busy, frozen = data.draw(some), set(data.draw(some))
    assert sample_cohort(plan, number, busy, frozen) == plainly(plan, number, busy, frozen)


def test_all_take_part_by_default():
    assert sample_cohort(Stub({"g": 3, "h": 1}, 1.0), 1) == ["g-1", "g-2", "g-3", "h"]


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_rounds_and_seeds_differ_and_everybody_comes_in_time(share):
    plan = Stub({"g": 8}, share)
    rounds = [tuple(sample_cohort(plan, number)) for number in range(1, 60)]
    assert len(set(rounds)) > 5
    assert {c for cohort in rounds for c in cohort} == set(plan.clients)
    assert [tuple(sample_cohort(Stub({"g": 8}, share, 1), number)) for number in range(1, 60)] != rounds


def test_groups_draw_independently():
    plan = Stub({"g": 6, "h": 6}, 0.5)
    same = 0
    for number in range(1, 20):
        cohort = sample_cohort(plan, number)
        picked = [sorted(c[2:] for c in cohort if c.startswith(g)) for g in "gh"]
        same += picked[0] == picked[1]
    assert same < 5
