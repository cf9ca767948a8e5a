"""RAVAN, against the paper's equations in dense float64; what a group of unequal heads trains, sends and holds."""

import pytest
import torch
from support.by_hand import batches_of, hidden
from support.merging import asked, merge, method
from support.rounds import run_round

from atlas_cli.aggregation.contract import Factors, Update
from atlas_cli.errors import ConfigError
from atlas_cli.experiment.round_loop import deliver, set_up
from atlas_cli.federation.build import build
from atlas_cli.models.adapters.heads import HeadsForm
from atlas_cli.planning.plan import make_plan
from atlas_cli.planning.round_bytes import Shape
from atlas_cli.planning.step_flops import step_flops
from atlas_cli.testing.flops import counted
from atlas_cli.wire.ledger import Ledger

HEADS, SIZE, D_IN, D_OUT = 4, 3, 20, 14
FORM = HeadsForm(HEADS, SIZE)
TRAINED = {"a": [0, 1, 2, 3], "b": [0, 2], "c": [2]}  # nobody but a trains 1 and 3
WEIGHTS = {"a": 3.0, "b": 1.0, "c": 2.0}


def made(seed=0, heads=HEADS):
    named = {"alpha": 16.0, "dropout": 0.0, "rslora": False, "seed": seed, "path": "q"}
    return FORM.build(D_IN, D_OUT, heads, **named)


def drawn(seed, heads=HEADS, scales=True):
    draw = torch.Generator().manual_seed(seed)
    B = torch.randn(SIZE**2 + 1, heads, generator=draw, dtype=torch.float64)
    if not scales:
        B[-1] = 1
    return Factors(torch.arange(heads, dtype=torch.float64)[:, None], B)


def by_head(f):
    """dW_i = s_i B_i H_i A_i, dense, from the bases of a new adapter."""
    A, B = (base.double() for base in (made()._bases.A, made()._bases.B))
    parts = []
    for number, column in zip(f.A[:, 0].long().tolist(), f.B.t(), strict=True):
        rows = slice(number * SIZE, (number + 1) * SIZE)
        parts.append(column[-1] * B[rows].t() @ column[:-1].view(SIZE, SIZE) @ A[rows])
    return parts


def sent(before, client, seed):
    own, new = TRAINED[client], drawn(seed)
    B = before.B.clone()
    B[:, own] = new.B[:, own]
    return Update(client, WEIGHTS[client], {"q": Factors(before.A, B)}, components={"q": own})


def test_each_head_is_the_mean_of_those_who_trained_it():
    before = drawn(0, scales=False)
    updates = [sent(before, client, seed) for seed, client in enumerate(TRAINED, 1)]
    merged = merge("ravan", {"q": before}, updates, heads=HEADS, size=SIZE).adapters["q"]
    found, new = by_head(merged), {u.client: by_head(u.adapters["q"]) for u in updates}
    for i in range(HEADS):
        there = [c for c in TRAINED if i in TRAINED[c]]
        exact = sum(WEIGHTS[c] * new[c][i] for c in there) / sum(WEIGHTS[c] for c in there)
        assert (found[i] - exact).abs().max() <= 1e-14
    assert torch.equal(merged.B[-1], torch.ones(HEADS).double()) and torch.equal(merged.A, before.A)
    left = merge("ravan", {"q": before}, updates[2:], heads=HEADS, size=SIZE).adapters["q"]
    assert torch.equal(left.B[:, [0, 1, 3]], before.B[:, [0, 1, 3]])  # what nobody trained, to the bit
    idle = [Update(u.client, u.weight, {"q": before}, components=u.components) for u in updates]
    assert torch.equal(merge("ravan", {"q": before}, idle, heads=HEADS, size=SIZE).adapters["q"].B, before.B)


def test_heads_are_orthogonal_and_stand_for_their_dW():
    """Whatever H is: <dW_i, dW_j> = 0, the norm of dW is that of s_i H_i, and of what stands for it in errors."""
    one, other = drawn(1), drawn(2)
    parts, dense = by_head(one), [sum(by_head(f)) for f in (one, other)]
    gram = torch.tensor([[float((x * y).sum()) for y in parts] for x in parts])
    assert (gram - gram.diag().diag()).abs().max() < 1e-6 * gram.diag().max()
    worth = [B @ A for A, B in (FORM.worth(*f) for f in (one, other))]
    assert float((worth[0] * worth[1]).sum()) == pytest.approx(float((dense[0] * dense[1]).sum()), rel=1e-5)
    assert torch.linalg.matrix_rank(dense[0]) == HEADS * SIZE


def test_an_adapter_runs_its_heads_wherever_they_are():
    """Heads 1 and 3 of four, with gradients, and the others frozen; new ones are nothing at all, to the bit."""
    whole, adapter, x, y = drawn(3), made(heads=2), torch.randn(2, 5, D_IN), torch.randn(2, 5, D_OUT)
    assert torch.equal(made().add_to(y, x), y)
    with torch.no_grad():
        adapter.lora_A.copy_(whole.A[[1, 3]])
        adapter.lora_B.copy_(whole.B[:, [1, 3]])
    parts, exact = by_head(whole), whole.B[:, [1, 3]].clone().requires_grad_()
    torch.testing.assert_close(adapter.add_to(y, x), y + x @ (parts[1] + parts[3]).float().t(), atol=1e-5, rtol=1e-4)
    A, B = adapter.beside(whole.A[[0, 2]].float(), whole.B[:, [0, 2]].float())
    torch.testing.assert_close((B @ A).double(), parts[0] + parts[2], atol=1e-5, rtol=1e-4)
    direction = torch.randn(D_OUT, D_IN, dtype=torch.float64)
    (direction * sum(by_head(Factors(whole.A[[1, 3]], exact)))).sum().backward()
    A, B = adapter.factors()
    (direction.float() * (B @ A)).sum().backward()
    torch.testing.assert_close(adapter.lora_B.grad.double(), exact.grad, atol=1e-5, rtol=1e-4)
    assert adapter.lora_A.grad is None


def test_heads_are_drawn_from_the_seed_or_are_those_with_the_largest_norm():
    current, one, again = drawn(0), method("ravan", size=SIZE), method("ravan", size=SIZE)
    draws = {(c, n): one.selected(c, n, "q", 2, current) for c in "ab" for n in range(1, 101)}
    assert all(again.selected(c, n, "q", 2, current) == own for (c, n), own in draws.items())
    assert {i for own in draws.values() for i in own} == set(range(HEADS)) and len(set(map(tuple, draws.values()))) == 6
    by_weight = method("ravan", size=SIZE, select="weight")
    B = current.B.clone()
    B[:-1, [0, 3]] *= 1e3
    assert by_weight.selected("a", 1, "q", 2, Factors(current.A, B)) == [0, 3]
    start = Factors(current.A, torch.zeros_like(B))
    assert by_weight.selected("a", 1, "q", 2, start) == one.selected("a", 1, "q", 2, start)  # all alike: by lot


@pytest.mark.parametrize(
    ("rank", "size", "says"),
    [
        (1, 9, "rank 1 is worth 72 numbers, and one head of size 9 has 81; take rank 2 or more"),
        (8, 10, "4 heads of size 10 need bases of 40 vectors, and a layer of 36 x 36 has room for 36"),
    ],
)
def test_ranks_that_are_worth_no_head_are_refused(rank, size, says):
    with pytest.raises((ValueError, ConfigError), match=says):
        HeadsForm(4, size).components(rank, 36, 36)
    assert [HeadsForm(4, 8).components(r, 32, 32) for r in (1, 2, 3, 4, 9)] == [1, 2, 3, 4, 4]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"clustering": {"by": "oracle"}}, "clustering"),
        ({"audit": {"record": {"rounds": [1]}}}, "audit"),
        ({"lora": {"rslora": True}}, "lora.rslora"),
        ({"clients": {"a": {"rank": "auto"}}}, "clients.a.rank"),
        ({"model": {"split_layer": "auto"}}, "model.split_layer"),
        ({"clients": {"a": {"rank": 1}}, "aggregation": {"options": {"size": 10, "heads": 2}}}, "clients.a.rank"),
        ({"aggregation": {"optimizer": {"name": "momentum"}}}, "aggregation.optimizer"),
        ({"training": {"drift": {"name": "scaffold"}}}, "training.drift.name"),
        ({"privacy": {"examples": {"clip": 1.0, "noise_multiplier": 1.0}}}, "privacy.examples"),
    ],
)
def test_what_is_of_factors_is_refused(changes, key, make_config):
    own = changes.pop("aggregation", {})
    if "privacy" in changes:
        changes |= {"server": {"rank": 0}, "training": {"labels": "client"}}
        own = {"weights": "uniform"}
    with pytest.raises(ConfigError) as error:
        make_plan(make_config(aggregation={**asked("ravan"), **own}, **changes))
    assert error.value.key == key and len(str(error.value)) < 250


@pytest.fixture
def ready(make_config):
    def make(**changes):
        federation = build(make_config(aggregation=asked("ravan") | changes.pop("options", {}), **changes))
        set_up(federation)
        return federation

    return make


@pytest.mark.slow
def test_a_run_of_unequal_heads(ready):
    """Every client begins a round with what the group computes; bytes do not depend on the layer, work is counted."""
    one, ledger = ready(training={"client_optimizer": {"lr": 0.05}}), Ledger()
    group, batch = one.aggregator.groups["g"], next(batches_of(one, "a"))
    plain = hidden(one.base.model, batch)
    for adapters in (group.adapters, one.clients["b"].adapters):
        with adapters.attached(one.base.model):
            assert torch.equal(hidden(one.base.model, batch), plain)
    for number in (1, 2):
        ledger = Ledger()
        run_round(one, list("abc"), number, ledger, lambda *_: None)
        one.aggregator.merge("g", list("abc"), ledger, number)
        deliver(one, list("abc"), ledger)
        assert ledger.mismatches() == []
        with group.adapters.train(False).attached(one.base.model):
            whole = hidden(one.base.model, batch)
        assert not torch.equal(whole, plain)
        for client, heads in {"a": 4, "b": 2, "c": 3}.items():
            held = one.clients[client].adapters
            with held.train(False).attached(one.base.model):
                torch.testing.assert_close(hidden(one.base.model, batch), whole, atol=2e-6, rtol=1e-5)
            assert set(held.ranks.values()) == {heads}
            own = 4 * len(held.adapters) * (8 * 8 + 1)  # bytes of a head on all layers, of any size
            kinds = [("adapters", "up"), ("adapters", "down"), ("base-total", "down")]
            up, down, beside = (ledger.entries.get((client, *kind)) for kind in kinds)
            assert up.payload_bytes == heads * own
            assert down.payload_bytes + (beside.payload_bytes if beside else 0) == 4 * own


def test_its_work_is_counted_to_the_operation(ready):
    federation = ready()
    client, planned = federation.clients["a"], federation.plan.by_name["a"]  # all heads: none runs beside
    mask = torch.ones(4, 16, dtype=torch.int64)
    activations, forward = counted(lambda: client.compute_activations({"input_ids": mask, "attention_mask": mask}))
    _, backward = counted(lambda: client.backward(torch.ones_like(activations)))
    shape, task = Shape(4, 16, True), federation.data["g"].task
    said = step_flops(federation.plan, planned, planned.ranks, task, shape, ("B",))[0]
    assert (forward, backward) == (said.forward, said.backward)
