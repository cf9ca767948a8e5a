"""Runs with every aggregation method: what clients train on next is what the method's equation gives."""

import copy

import pytest
import torch
from support.by_hand import batches_of, hidden
from support.merging import asked
from support.rounds import run_round
from support.slow import slow_but

from atlas_cli import discovery
from atlas_cli.aggregation.contract import delta
from atlas_cli.errors import ConfigError
from atlas_cli.experiment.round_loop import deliver, require_delivered, set_up
from atlas_cli.experiment.run_state import RunState
from atlas_cli.experiment.whole_adapters import fold_base_change
from atlas_cli.federation.build import build
from atlas_cli.planning.plan import make_plan
from atlas_cli.wire.ledger import Ledger

METHODS = [name for name in discovery.names("aggregation.methods") if name != "none"]
DIFFERENT = ("delta-svd", "fedsa", "flora", "scaffold")  # what is sent, kept and replaced
FAST = {"client_optimizer": {"lr": 0.02}, "server_optimizer": {"lr": 0.02}}


def worth(adapters, path):
    """dW of a layer as the client runs it, its changed base included, dense."""
    adapter = adapters.adapters.get(path)
    A, B = (0, 0) if adapter is None else (factor.double() for factor in adapter.factors())
    total = 0 if adapter is None else adapter.scaling * B @ A
    for A, B in adapters.beside(path):
        total = total + B.double() @ A.double()
    return total


@pytest.fixture
def ready(make_config):
    def make(method, options=None, **changes):
        aggregation = {"method": method, "options": options} if options else asked(method)
        made = build(make_config(aggregation=aggregation, training=FAST, **changes))
        set_up(made)
        return made

    return make


def a_round(made, cohort, number, ledger=None):
    """Local steps, merge and delivery; what each client held before the merge."""
    ledger = ledger or Ledger()
    deliver(made, cohort, ledger)
    run_round(made, cohort, number, ledger, lambda *_: None)
    trained = {c: copy.deepcopy(made.clients[c].adapters) for c in cohort}
    errors = made.aggregator.merge("g", cohort, ledger, number)
    deliver(made, cohort, ledger)
    require_delivered(made, made.clients)
    assert ledger.mismatches() == []
    return trained, errors


@pytest.mark.parametrize(
    ("method", "family"),
    slow_but(
        [*((method, "gpt2") for method in METHODS), *((method, "llama") for method in ("delta-svd", "fedsa", "flora"))],
        *((method, "gpt2") for method in (*DIFFERENT, "ffa")),
    ),
)
def test_two_rounds_deliver_what_the_method_says(method, family, make_config):
    """By value, against dense sums; d_in != d_out in GPT-2's c_attn and LLaMA's grouped v."""
    made = build(make_config(family, aggregation=asked(method), training=FAST))
    set_up(made)
    aggregator, module = made.aggregator, made.aggregator.method
    weights = {c: aggregator.members[c].weight for c in "abc"}
    for number in (1, 2):
        before = copy.deepcopy(aggregator.groups["g"].merged)
        trained, errors = a_round(made, ["a", "b", "c"], number)
        assert (errors is None) == (not module.GROUP_ADAPTER)
        for path, merged in aggregator.groups["g"].merged.items():
            exact = sum(weights[c] * worth(trained[c], path) for c in "abc") / sum(weights.values())
            for c in "abc":
                rank = made.clients[c].adapters.adapters[path].rank
                got = worth(made.clients[c].adapters, path)
                if module.CHANGES_BASE:
                    torch.testing.assert_close(got, exact, atol=2e-6, rtol=1e-3)  # exact, whatever the rank
                elif method == "fedsa":
                    mine = trained[c].adapters[path]
                    torch.testing.assert_close(got, mine.scaling * mine.lora_B.double() @ merged.A[:rank].double())
                elif module.SELECTS:  # all of it, whatever the rank
                    torch.testing.assert_close(got, worth(aggregator.groups["g"].adapters, path), atol=1e-7, rtol=1e-5)
                else:
                    cut = merged.B[:, :rank].double() @ merged.A[:rank].double()
                    torch.testing.assert_close(got, cut, atol=1e-7, rtol=1e-5)
            if method == "ffa":
                assert torch.equal(merged.A, before[path].A)
                torch.testing.assert_close(worth(made.clients["a"].adapters, path), exact, atol=1e-6, rtol=1e-4)
    if module.CHANGES_BASE:
        assert errors.overall.total < 1e-5
    assert any(worth(made.clients["a"].adapters, path).abs().max() > 1e-4 for path in aggregator.groups["g"].merged)


@pytest.mark.parametrize("method", ["flora", "fedex"])
def test_a_changed_base_is_what_the_client_computes_with(method, ready):
    made = ready(method)
    a_round(made, ["a", "b", "c"], 1)
    client = made.clients["a"]

    batch = next(batches_of(made, "a"))
    plain = copy.deepcopy(made.base.model)
    for path in made.plan.features:
        change = worth(client.adapters, path)
        if isinstance(change, torch.Tensor):
            plain.get_submodule(path).weight.data += change.float()
    with client.adapters.train(False).attached(made.base.model):
        ours = hidden(made.base.model, batch)
    torch.testing.assert_close(ours, hidden(plain, batch), atol=1e-5, rtol=1e-4)
    exported = fold_base_change(made, client.adapters)
    assert exported.frozen == {}
    for path in client.adapters.adapters:
        torch.testing.assert_close(worth(exported, path), worth(client.adapters, path).double(), atol=1e-6, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_an_absent_client_keeps_what_it_has_and_catches_up(method, ready):
    made = ready(method)
    a_round(made, ["a", "b", "c"], 1)
    held = {path: worth(made.clients["c"].adapters, path) for path in made.aggregator.groups["g"].merged}
    for number in (2, 3):
        a_round(made, ["a", "b"], number)
        assert all(torch.equal(held[p], worth(made.clients["c"].adapters, p)) for p in held)
    ledger = Ledger()
    a_round(made, ["a", "b", "c"], 4, ledger)
    if made.aggregator.method.CHANGES_BASE:
        for path in held:
            one, other = (worth(made.clients[c].adapters, path) for c in "ac")
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("method", slow_but(METHODS, *DIFFERENT))
def test_moments_of_what_was_replaced_are_reset_and_no_others(method, ready):
    made = ready(method)
    client = made.clients["a"]
    run_round(made, ["a", "b", "c"], 1, Ledger(), lambda *_: None)
    made.aggregator.merge("g", ["a", "b", "c"], Ledger(), 1)
    deliver(made, ["a"], Ledger())
    for adapter in client.adapters.adapters.values():
        assert bool(client.optimizer.state.get(adapter.lora_B)) == (method == "fedsa")
        assert not client.optimizer.state.get(adapter.lora_A)
        assert adapter.lora_A.requires_grad == (method not in ("ffa", "fedsvd", "rolora", "ravan"))


@pytest.mark.slow
def test_what_crosses_the_wire(ready):
    """Elements by method, rank and layer: (32 + 32) a rank, four layers of BERT's query and value below the cut."""
    ranks = {"a": 4, "b": 2, "c": 3}
    layers, d = 4, 32
    up = (
        {name: 2 * d for name in METHODS} | dict.fromkeys(("ffa", "fedsa", "fedsvd", "rolora"), d) | {"scaffold": 4 * d}
    )
    up["ravan"] = 8 * 8 + 1  # a head of size 8 and its scale, of which ranks 4, 2 and 3 are worth as many
    for method in METHODS:
        made, ledger = ready(method), Ledger()
        a_round(made, ["a", "b", "c"], 1, ledger)
        for client, rank in ranks.items():
            sent = ledger.entries[client, "adapters", "up"].payload_bytes
            assert sent == 4 * layers * rank * up[method]
            down = ledger.entries.get((client, "adapters", "down"))
            wanted = {"flora": 0, "fedsvd": 2 * sent}.get(method, sent)
            assert (down.payload_bytes if down else 0) == wanted
            beside = ledger.entries.get((client, "base-total", "down"))  # up to the group's rank, 4
            left = 4 * layers * (4 - rank) * up[method] if method in ("fed-plora", "ravan") else 0
            assert (beside.payload_bytes if beside else 0) == left
            change = ledger.entries.get((client, "base-change", "down"))
            assert (change.payload_bytes if change else 0) == (
                4 * layers * sum(ranks.values()) * 2 * d if method in ("flora", "fedex") else 0
            )


@pytest.mark.parametrize("method", slow_but(METHODS, *DIFFERENT))
def test_a_restored_federation_goes_on_alike(method, make_config):
    config = make_config(aggregation=asked(method), training=FAST)
    made, other = build(config), build(config)
    set_up(made)
    a_round(made, ["a", "b", "c"], 1)
    a_round(made, ["a", "b"], 2)  # c is behind
    RunState(other).restore(*RunState(made).capture())
    for federation in (made, other):
        a_round(federation, ["a", "b", "c"], 3)
    for c in "abc":
        for path in made.aggregator.groups["g"].merged:
            assert torch.equal(worth(made.clients[c].adapters, path), worth(other.clients[c].adapters, path))


@pytest.mark.slow
def test_the_rank_of_a_base_change_is_bounded_without_loss(ready):
    made = ready("flora")
    total = 0
    for number in range(1, 8):  # 9 rows a round; 32 are full rank
        ledger = Ledger()
        trained, _ = a_round(made, ["a", "b", "c"], number, ledger)
        # rows that were added, whatever has become of T since
        assert ledger.entries["a", "base-change", "down"].payload_bytes == 4 * 4 * 9 * (32 + 32)
        path = next(iter(trained["a"].adapters))
        weights = {c: made.aggregator.members[c].weight for c in "abc"}
        total = sum(weights[c] * worth(trained[c], path) for c in "abc") / sum(weights.values())
        assert made.aggregator.groups["g"].change.total[path].rank <= 32
    torch.testing.assert_close(worth(made.clients["b"].adapters, path), total, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("method", ["ffa", "fedsa", "fedsvd", "fed-plora", "flora", "fedex", "ravan", "rolora"])
def test_methods_without_a_meaning_for_contested_layers_are_refused(method, make_config):
    clients = {"a": {"split_layer": 1}, "b": {"split_layer": 3}}
    with pytest.raises(ConfigError, match=f"{method} is not defined for a layer that lies on the server for some"):
        make_plan(make_config(aggregation=asked(method), clients=clients))


@pytest.mark.parametrize(
    ("options", "key", "says"),
    [
        ({"rigde": 1.0}, "aggregation.options.rigde", "did you mean ridge"),
        ({"ridge": 0}, "aggregation.options.ridge", "greater than 0"),
    ],
)
def test_options_are_checked(options, key, says, make_config):
    with pytest.raises(ConfigError, match=says) as error:
        make_plan(make_config(aggregation={"method": "lora-fair", "options": options}))
    assert error.value.key == key


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("uniform", {"a": 1, "b": 1, "c": 2}), ("inverse-rank", {"a": 1 / 4, "b": 1 / 2, "c": 2 / 3})],
)
def test_weights(rule, expected, make_config):
    made = build(make_config(aggregation={"weights": rule}, clients={"c": {"weight": 2.0}}))
    assert {name: member.weight for name, member in made.aggregator.members.items()} == pytest.approx(expected)


def test_weights_by_tokens(make_config):
    made = build(make_config(aggregation={"weights": "tokens"}, clients={"c": {"weight": 2.0}}))
    tokens = {c: sum(len(f["input_ids"]) for f in made.train_features(c)) for c in "abc"}
    expected = {**tokens, "c": 2 * tokens["c"]}
    assert {name: member.weight for name, member in made.aggregator.members.items()} == expected


def test_the_error_ledger_can_be_left_out(ready):
    made = ready("zero-pad")
    made.aggregator.keep_errors = False
    assert a_round(made, ["a", "b", "c"], 1)[1] is None


def two_groups(toy_csv, **rule):
    group = {"task": "sequence-classification", "data": {"files": toy_csv}}
    return {
        "task_groups": {"g": group, "h": group},
        "clients": {"c": {"task_group": "h"}},
        "aggregation": {"method": "delta-svd", "cross_group": rule},
        "training": FAST,
    }


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["softmax", "laplacian"])
def test_groups_are_mixed_before_they_are_delivered(graph, make_config, toy_csv, train_quietly):
    apart, together = (
        build(make_config(**two_groups(toy_csv, strength=strength, graph=graph))) for strength in (0.0, 0.9)
    )
    for made in (apart, together):
        train_quietly(made)  # deliveries and bytes are checked every round

    def likeness(made):
        g, h = (torch.cat([delta(f).flatten() for f in made.aggregator.groups[name].merged.values()]) for name in "gh")
        return torch.nn.functional.cosine_similarity(g, h, dim=0)

    assert likeness(together) > likeness(apart) + 0.05
    one, other = (next(together.server.heads[name].parameters()) for name in "gh")
    assert not torch.equal(one, other)  # heads are never mixed


@pytest.mark.parametrize("method", ["ffa", "fedsa", "fedsvd", "flora", "fedex", "ravan", "rolora"])
def test_groups_without_an_adapter_to_mix_are_refused(method, make_config):
    with pytest.raises(ConfigError, match=f"{method} has no group adapters that can be mixed") as error:
        make_plan(make_config(aggregation={**asked(method), "cross_group": {"strength": 0.5}}))
    assert error.value.key == "aggregation.cross_group.strength"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["split-federated", "federated"])
def test_ranks_shrink_where_the_tail_fell(mode, make_config, train_quietly):
    """HetLoRA's self-pruning: a strong penalty empties the tails, which are then dropped, and training goes on."""
    options = {"prune": 0.5, "penalty": 5.0}
    made = build(make_config(mode=mode, aggregation={"method": "hetlora", "options": options}, training=FAST))
    train_quietly(made)  # what is held and delivered, and bytes by rank, are checked every round
    before = {c.name: c.ranks for c in made.plan.clients}
    for name, member in made.aggregator.members.items():
        fell = [path for path, rank in before[name].items() if member.ranks[path] < rank]
        assert fell and all(adapter.lora_A.shape[0] == adapter.rank for adapter in member.adapters.adapters.values())
        trained = {id(p) for part in made.clients[name].optimizers() for g in part.param_groups for p in g["params"]}
        assert {id(p) for p in member.adapters.parameters()} <= trained


def test_shrinking_keeps_what_is_left_of_the_update(ready):
    adapter = next(iter(ready("hetlora").clients["a"].adapters.adapters.values()))
    torch.nn.init.normal_(adapter.lora_B)
    left = adapter.scaling * adapter.lora_B[:, :3] @ adapter.lora_A[:3]
    adapter.shrink(3)
    torch.testing.assert_close(adapter.scaling * adapter.lora_B @ adapter.lora_A, left)


def test_the_penalty_is_in_the_gradient(ready):
    """By how much a client's gradients differ is the gradient of the penalty alone."""
    grads = {}
    for weight in (0.0, 2.0):
        made = ready("hetlora", {"prune": 0.5, "penalty": weight})
        client, adapters = made.clients["a"], made.clients["a"].adapters
        for adapter in adapters.adapters.values():
            torch.nn.init.constant_(adapter.lora_B, 0.01)
        batch = next(batches_of(made, "a"))
        made.server.begin_round({"a": "g"}, 1)
        reply, _ = made.server.answer(client.forward(batch.inputs(), 1, 0, batch.labels))
        client.backward(reply.gradients)
        grads[weight] = [p.grad for p in adapters.parameters()]
    expected = []
    for adapter in adapters.adapters.values():
        tail = adapter.scaling * torch.linalg.vector_norm(adapter.lora_B[:, 2:]) * adapter.lora_A[2:].norm()
        expected += torch.autograd.grad(2.0 * tail, list(adapter.parameters()))
    for plain, with_penalty, own in zip(grads[0.0], grads[2.0], expected, strict=True):
        torch.testing.assert_close(with_penalty - plain, own, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_first_delivery_is_the_groups_start_in_both_parts(method, make_config):
    made = build(make_config(aggregation=asked(method)))
    for adapter in made.aggregator.groups["g"].adapters.adapters.values():
        torch.nn.init.normal_(adapter.lora_B)  # as an adapter to start from does
    made.aggregator.groups["g"].start()
    set_up(made)
    group = made.aggregator.groups["g"]
    for client in made.clients.values():
        selected = group.components(client.name, client.ranks)
        for path, adapter in client.adapters.adapters.items():
            start, own = group.adapters.adapters[path], list(selected.get(path, range(adapter.rank)))
            torch.testing.assert_close(adapter.lora_A, start.lora_A[own])
            torch.testing.assert_close(adapter.scaling * adapter.lora_B, start.scaling * start.lora_B[:, own])


@pytest.mark.slow
def test_who_missed_more_than_a_full_rank_is_sent_the_change_itself(ready):
    made = ready("flora")
    a_round(made, ["a", "b", "c"], 1)
    for number in range(2, 10):  # 6 rows a round without c: 48 in all
        a_round(made, ["a", "b"], number)
    ledger = Ledger()
    deliver(made, ["c"], ledger)
    assert ledger.mismatches() == []
    assert ledger.entries["c", "base-total", "down"].payload_bytes == 4 * 4 * 32 * (32 + 32)
    assert ("c", "base-change", "down") not in ledger.entries
    for path in made.aggregator.groups["g"].merged:
        torch.testing.assert_close(*(worth(made.clients[name].adapters, path) for name in "ac"), atol=1e-6, rtol=1e-4)


def test_rolora_alternates_what_is_trained_and_sent(ready):
    """B first; the other factor is the same bits at all clients, and who missed both kinds of merges is sent both."""
    made, ranks, elements = ready("rolora"), {"a": 4, "b": 2, "c": 3}, 4 * 32  # four layers; d_in = d_out = 32
    for number, trained in ((1, "B"), (2, "A"), (3, "B")):
        before = copy.deepcopy(made.aggregator.groups["g"].merged)
        ledger, cohort = Ledger(), ["a", "b"] if number < 3 else ["a", "b", "c"]
        sets, _ = a_round(made, cohort, number, ledger)
        for path, merged in made.aggregator.groups["g"].merged.items():
            other = {"A": "B", "B": "A"}[trained]
            assert torch.equal(getattr(merged, other), getattr(before[path], other))
            assert not torch.equal(getattr(merged, trained), getattr(before[path], trained))
            for client in cohort:
                held = made.clients[client].adapters.adapters[path]
                assert torch.equal(
                    getattr(held, f"lora_{other}"), getattr(sets[client].adapters[path], f"lora_{other}")
                )
                assert made.clients[client].exchanged.trained_parts == (trained,)
        for client in cohort:
            up, down = (ledger.entries[client, "adapters", way].payload_bytes for way in ("up", "down"))
            late = 2 * (number == 3 and client == "c")  # A and B before the round
            assert (up, down) == (4 * elements * ranks[client], 4 * elements * ranks[client] * (1 + late))
    optimizer = made.clients["a"].optimizer
    assert len(optimizer.param_groups[0]["params"]) == 4
