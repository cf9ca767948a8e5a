"""How often clients were used, against counting anew over all of them, and without looking at all of them."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from atlas_cli.planning.cohort import sample_cohort
from atlas_cli.privacy.account.participation import Participation

GROUPS = ("g", "h")


class Clients:
    """Of a plan what an account asks of it, and the examples; ``asked``: whose examples it asked for."""

    def __init__(self, sizes, cohort, steps, batch, seed=0):
        self.sizes, self.batch, self.asked = sizes, batch, []
        training = SimpleNamespace(cohort=cohort, local_steps=steps)
        self.config = SimpleNamespace(seed=seed, training=training)
        self.group_names = list(GROUPS)

    def names(self, group):
        return [c for c in self.sizes if self.group_of(c) == group]

    @property
    def by_name(self):
        return {client: SimpleNamespace(task_group=self.group_of(client)) for client in self.sizes}

    def group_of(self, client):
        return GROUPS[int(client) % 2]

    def in_order(self, clients):
        return sorted(clients, key=int)

    def batch_size(self, client):
        return self.batch

    def features(self, client):
        self.asked.append(client)
        return [{}] * self.sizes[client]


@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=9),
    cohort=st.floats(0.1, 1),
    steps=st.integers(1, 5),
    batch=st.integers(1, 5),
    seed=st.integers(0, 3),
    asked=st.lists(st.integers(0, 8), min_size=1, max_size=4),
)
def test_is_what_counting_over_all_clients_gives(sizes, cohort, steps, batch, seed, asked):
    clients = Clients({str(i): size for i, size in enumerate(sizes)}, cohort, steps, batch, seed)
    account = Participation(clients, clients.features, clients.batch_size)
    for number in asked:  # in any order
        cohorts = {r: set(sample_cohort(clients, r)) for r in range(1, number + 1)}
        rounds = {client: [r for r, cohort in cohorts.items() if client in cohort] for client in clients.sizes}
        for group in GROUPS:
            epochs, sampled = 0, {}
            for client in clients.names(group):
                step_numbers = [(r - 1) * steps + i for r in rounds[client] for i in range(steps)]
                epochs = max(epochs, len({step // -(-clients.sizes[client] // batch) for step in step_numbers}))
                if rounds[client]:
                    rate = min(1.0, batch / clients.sizes[client])
                    sampled[rate] = max(sampled.get(rate, 0), len(rounds[client]))
            most = max(len(rounds[client]) for client in clients.names(group))
            assert account.most(group, number) == (most, epochs, sampled)


def test_a_round_looks_at_its_cohort_alone():
    clients = Clients({str(i): 6 for i in range(2000)}, cohort=0.002, steps=2, batch=2)
    account = Participation(clients, clients.features, clients.batch_size)
    for number in range(1, 9):
        cohort = sample_cohort(clients, number)
        clients.asked.clear()
        account.most("g", number)
        assert set(clients.asked) == set(cohort) and len(cohort) == 4
