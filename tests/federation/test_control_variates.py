"""Clients whose gradients are corrected by those of their first local step (after SCAFFOLD), at unequal ranks."""

import pytest
import torch
from support.merging import method
from support.slow import slow

from atlas_cli.aggregation.contract import delta
from atlas_cli.errors import ConfigError
from atlas_cli.experiment.memory_record import MeasuredRound
from atlas_cli.federation.build import build
from atlas_cli.federation.client_state.member import Member
from atlas_cli.federation.merging.aggregator import Aggregator
from atlas_cli.federation.merging.mean_gradients import share_first_gradients
from atlas_cli.federation.parties.control_variate import ControlVariate
from atlas_cli.models.adapters.lora import AdapterSet, LoRAAdapter
from atlas_cli.planning.memory_of_plan import predict, shapes_of
from atlas_cli.planning.plan import make_plan
from atlas_cli.wire.ledger import Ledger

D_IN, D_OUT, STEPS, RATE = 4, 5, 8, 0.04
RANKS, WEIGHTS = {"a": 1, "b": 3, "c": 2}, {"a": 1.0, "b": 3.0, "c": 2.0}
SCAFFOLD = {"name": "scaffold"}


def adapters(rank, alpha=4.0):
    draw = torch.Generator().manual_seed(1)
    return AdapterSet({"q": LoRAAdapter(D_IN, D_OUT, rank, alpha, generator=draw).double()})


class Quadratic:
    """Clients whose loss is the sum of h (dW - best)^2 / 2, each with an h and a best of its own, merged by dW."""

    def __init__(self, corrected, ranks=RANKS):
        self.held = {c: adapters(r) for c, r in ranks.items()}
        self.controls = {c: ControlVariate(STEPS) for c in ranks} if corrected else {}
        draw = torch.Generator().manual_seed(0)
        self.h, self.best = (
            {c: spread(torch.rand(D_OUT, D_IN, generator=draw, dtype=torch.float64)) for c in ranks}
            for spread in (lambda u: 0.2 + 3 * u, lambda u: 2 * u - 1)
        )
        members = {c: Member("g", WEIGHTS[c], self.held[c], None) for c in ranks}
        group = adapters(max(ranks.values()))
        self.aggregator = Aggregator(method("delta-svd"), members, {"g": group}, {}, {"q": (D_IN, D_OUT)})
        self.number = 0

    def gradient(self, client):
        adapter = self.held[client].adapters["q"]
        A, B, s = adapter.lora_A, adapter.lora_B, adapter.scaling
        with torch.no_grad():
            of_product = self.h[client] * (s * B @ A - self.best[client])
            A.grad, B.grad = s * B.T @ of_product, s * of_product @ A.T

    def step(self, client):
        with torch.no_grad():
            for parameter in self.held[client].parameters():
                parameter -= RATE * parameter.grad

    def means(self, clients, ledger):
        """Of gradients at what was delivered, after which those that are corrected take their first step."""
        for client in clients:
            self.gradient(client)
            control = self.controls.get(client) or ControlVariate(STEPS)
            control.correct(self.held[client], 0, "")
            self.first[client] = control.first_gradients()
        means = share_first_gradients(self.aggregator, {c: self.first[c] for c in clients}, ledger)
        for client in clients if self.controls else ():
            self.controls[client].take(self.held[client], means[client])
        return means

    def round(self, clients=None):
        self.number, clients, ledger, self.first = self.number + 1, clients or list(self.held), Ledger(), {}
        for client in clients:
            self.aggregator.deliver(client, ledger)
        means = self.means(clients, ledger)
        for client in clients:
            self.step(client)
            for step in range(1, STEPS):
                self.gradient(client)
                if self.controls:
                    self.controls[client].correct(self.held[client], step, "")
                self.step(client)
        self.aggregator.merge("g", clients, ledger, self.number)
        return means, ledger


@pytest.mark.slow
def test_clients_with_other_optima_come_to_rest_at_the_joint_one_and_averages_do_not():
    """Delivered and trained on as in a run: after an SVD of another gauge in every round, at the rank of dW."""
    left = {}
    for corrected in (True, False):
        case = Quadratic(corrected, dict.fromkeys(RANKS, D_IN))
        for _ in range(60):
            case.round()
        joint = sum(WEIGHTS[c] * case.h[c] * case.best[c] for c in RANKS) / sum(WEIGHTS[c] * case.h[c] for c in RANKS)
        left[corrected] = float((delta(case.aggregator.groups["g"].merged["q"]) - joint).abs().max())
    assert left[True] < 1e-5 < 0.3 < left[False]


def test_corrections_sum_to_0_by_weight_at_every_component_and_bytes_are_those_of_adapters():
    """At full participation, and over those that took part."""
    case = Quadratic(True)
    for clients in (["a", "b", "c"], ["a", "c"]):
        means, ledger = case.round(clients)
        for part, along in (("A", 0), ("B", 1)):
            total = torch.zeros(3, D_IN if part == "A" else D_OUT, dtype=torch.float64)
            for client in clients:
                name, rank = f"q.lora_{part}", RANKS[client]
                change = means[client][name] - case.first[client][name]
                total[:rank] += WEIGHTS[client] * (change if along == 0 else change.T)
                sent = [ledger.entries[client, "control-variates", way].closed_form_bytes for way in ("up", "down")]
                assert sent == [4 * rank * (D_IN + D_OUT)] * 2
            torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["split-federated", *slow("federated")])
def test_one_client_of_a_group_trains_as_without_bit_for_bit(mode, make_config, train_quietly):
    groups = {name: make_config().task_groups["g"].model_dump(exclude_unset=True) for name in "gh"}
    clients = {"b": {"task_group": "h", "rank": 2}}
    found = []
    for drift in ({"name": "none"}, SCAFFOLD):
        training = {"rounds": 1, "local_steps": 2, "drift": drift}
        made = build(make_config(mode=mode, task_groups=groups, clients=clients, training=training))
        train_quietly(made)
        found.append({client: party.adapters.state() for client, party in made.clients.items()})
    same = {c: all(torch.equal(t, found[1][c][name]) for name, t in own.items()) for c, own in found[0].items()}
    assert same == {"a": False, "b": True, "c": False}


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "method"), [("split-federated", "ffa"), ("federated", "delta-svd")])
def test_its_memory_is_predicted_and_measured(mode, method, make_config, train_quietly, monkeypatch):
    measured = []
    monkeypatch.setattr(MeasuredRound, "end", lambda self, files: measured.append(self.record()))
    training = {"rounds": 1, "drift": SCAFFOLD}
    made = build(make_config(mode=mode, aggregation={"method": method}, training=training))
    train_quietly(made)
    said = predict(made.plan, {"g": ["neg", "pos"]}, shapes_of(measured[0])).clients
    plain = make_plan(make_config(mode=mode, aggregation={"method": method}))
    for client in "abc":
        assert measured[0]["clients"][client]["optimizer"] == said[client].optimizer
        without = predict(plain, {"g": ["neg", "pos"]}, shapes_of(measured[0])).clients[client]
        assert said[client].optimizer > without.optimizer
        assert made.clients[client].control.bytes == 0


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"aggregation": {"method": "none"}}, "nothing is"),
        ({"aggregation": {"method": "fedsa"}}, "parts of their own"),
        ({"aggregation": {"method": "fed-plora"}}, "components of their own"),
        ({"aggregation": {"method": "scaffold"}}, "corrects gradients itself"),
        ({"privacy": {"updates": {"clip": 1.0, "noise_multiplier": 0.5}}}, "privacy.updates"),
        ({"privacy": {"examples": {"clip": 1.0, "noise_multiplier": 0.5}}}, "privacy.examples"),
        ({"clients": {"c": {"task_group": "g", "rank": 3, "split_layer": 3}}}, "different split layers"),
        ({"clients": {"c": {"task_group": "g", "rank": 3, "learns": "zeroth-order"}}}, "c learns: zeroth-order"),
    ],
)
def test_is_refused_where_gradients_cannot_be_shared(changes, why, make_config):
    with pytest.raises(ConfigError, match=why) as error:
        make_plan(make_config(training={"drift": SCAFFOLD}, **changes))
    assert error.value.key == "training.drift.name"
