"""Clients that share a pass are trained as if each had been computed by itself, and nothing is computed for padding."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rounds import assert_close, assert_same_metrics, run_round, trained
from support.slow import slow_but
from support.tiny_models import varied
from torch.utils._python_dispatch import TorchDispatchMode

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.data.collate import collate
from atlas_cli.engines import passes as grouping
from atlas_cli.engines.passes import PASS_TOKENS, pass_tokens, passes
from atlas_cli.errors import NonFiniteError
from atlas_cli.federation.parties import split_server
from atlas_cli.planning.plan import make_plan
from atlas_cli.wire.ledger import Ledger

SGD = {"name": "sgd", "lr": 0.1}  # Adam makes a rounding error of a gradient near 0 as large as a step
TRAINING = {"rounds": 3, "local_steps": 3, "client_optimizer": SGD, "server_optimizer": SGD}
GAPS = {"a": {"rank": {0: 4, 1: 1}}, "b": {"rank": {1: 3}}, "c": {"rank": {0: 2}}}
CUTS = {"a": {"split_layer": 1}}


def counted(federation, monkeypatch):
    """How many clients were in each pass that several shared or that was a packed row."""
    from atlas_cli.engines.shared_steps import SharedSteps

    sizes, take = [], SharedSteps.take
    note = lambda steps, passes, *rest: (sizes.extend(map(len, passes)), take(steps, passes, *rest))  # noqa: E731
    monkeypatch.setattr(SharedSteps, "take", note)
    return sizes


CASES = [
    *((family, {}, {}) for family in ("gpt2", "llama", "mistral", "bert", "roberta", "distilbert")),
    ("bert", {"labels": "client"}, {}),
    ("gpt2", {"server_update": "sequential"}, {}),
    ("bert", {"server_update": "per-client"}, {}),
    ("llama", {"server_update": "per-client", "labels": "client"}, {}),
    ("gpt2", {}, {"clients": GAPS}),
    ("llama", {"cohort": 0.7}, {}),
    ("bert", {}, {"clients": CUTS, "aggregation": {"method": "delta-svd"}}),
    ("bert", {}, {"aggregation": {"method": "fedex"}}),
    ("bert", {}, {"aggregation": {"method": "scaffold"}}),
    ("gpt2", {}, {"aggregation": {"method": "lora-fair"}, "faults": {"crash_at": {"b": {"round": 2, "step": 1}}}}),
    ("bert", {}, {"clients": {c: {"rank": {1: 3}} for c in "abc"}, "engine": {"prefix_cache": "1 MiB"}}),
    ("llama", {}, {"aggregation": {"method": "hetlora"}, "clients": {"b": {"checkpointing": True}}}),
]


FEW = [("bert", {}, {"aggregation": {"method": "scaffold"}})]


@pytest.mark.parametrize(("family", "training", "changes"), slow_but(CASES, *FEW))
def test_a_run_with_shared_passes_is_the_run_without(
    family, training, changes, make_federation, train_quietly, monkeypatch
):
    """Adapters, heads, losses, scores, bytes and measured memory; the first round is measured, client by client."""
    found = []
    for fuse in ("off", "auto"):
        engine = {**changes.get("engine", {}), "fuse": fuse}
        federation = make_federation(
            family, **{**changes, "engine": engine, "training": {**TRAINING, "rounds": 2, **training}}
        )
        with monkeypatch.context() as patch:
            sizes = counted(federation, patch)
            recorder = train_quietly(federation)
        found.append((trained(federation), recorder, sizes))
    (plain, theirs, none), (fused, ours, sizes) = found
    assert not none and max(sizes) > 1
    assert_close(fused, plain)
    assert_same_metrics(ours.metrics, theirs.metrics)
    first = slice(0, 2 * len(federation.clients))
    for a, b in zip(ours.clients[first], theirs.clients[first], strict=True):
        assert a["held_sha256"] == b["held_sha256"]
    for a, b in zip(ours.clients, theirs.clients, strict=True):
        assert a["simulated"] == b["simulated"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["causal-lm", "token-classification", "question-answering"])
def test_heads_that_read_each_token_or_the_whole_sequence(task, make_federation, tmp_path, lines, train_quietly):
    groups = lines if task == "causal-lm" else written(tmp_path, task)
    family = "gpt2" if task == "causal-lm" else "bert"
    found = []
    for fuse in ("off", "auto"):
        made = make_federation(family, task_groups=groups, engine={"fuse": fuse}, training=TRAINING)
        losses = [m["train_loss"] for m in train_quietly(made).metrics]
        found.append((trained(made), losses))
    assert_close(found[1][0], found[0][0])
    assert found[1][1][1:] == pytest.approx(found[0][1][1:], abs=1e-6)


def written(folder, task):
    import json

    words = "the film was very good and the city was not".split()
    rows = []
    for i in range(40):
        text = [*words[i % 3 : 3 + i % 7], *(words[int(digit)] for digit in f"{i:02d}"), "paris"]
        if task == "token-classification":
            rows.append({"tokens": text, "tags": ["O"] * (len(text) - 1) + ["B-LOC"]})
        else:
            rows.append({"question": "where", "context": " ".join(text), "answers": ["paris"]})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return {"g": {"task": task, "data": {"files": str(folder / "rows.jsonl")}}}


@pytest.mark.slow
def test_several_task_groups_in_one_pass(make_config, toy_csv, train_quietly, monkeypatch):
    from atlas_cli.federation.build import build

    group = {"task": "sequence-classification", "data": {"files": toy_csv}}
    groups = {"task_groups": {"g": group, "h": group}, "clients": {"b": {"task_group": "h"}}}
    found = []
    for fuse in ("off", "auto"):
        made = build(make_config(**groups, engine={"fuse": fuse}, training=TRAINING))
        with monkeypatch.context() as patch:
            sizes = counted(made, patch)
            train_quietly(made)
        found.append(trained(made))
    assert sizes == [3] * 6  # a, b, c: the group of b lies between the two of the other
    assert_close(found[1], found[0])


class LinearWork(TorchDispatchMode):
    """Multiplications in all matrix products but those of attention."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_):
            left, right = args[-2:]
            self.total += left.shape[0] * left.shape[1] * right.shape[1]
        if operation.overloadpacket == torch.ops.mkldnn._linear_pointwise:  # engine.prepack
            self.total += args[0].numel() * args[1].shape[0]
        return operation(*args, **kwargs or {})


@pytest.mark.parametrize("tokens", [1, PASS_TOKENS])
@pytest.mark.parametrize("more", [0, 9])
def test_a_step_costs_what_its_real_tokens_cost(tokens, more, make_federation, monkeypatch):
    """Counted, not timed, against a formula: padding and the grouping of clients add no matrix product."""
    from atlas_cli.federation import batches

    def padded(*args):
        batch = collate(*args)
        wider = {
            "input_ids": F.pad(batch.input_ids, (0, more)),
            "attention_mask": F.pad(batch.attention_mask, (0, more)),
        }
        return replace(batch, **wider)

    monkeypatch.setattr(batches, "collate", padded)
    monkeypatch.setattr(grouping, "pass_tokens", lambda _: tokens)
    made = make_federation("gpt2", training={**TRAINING, "batch_size": 1, "local_steps": 1}, server={"rank": 0})
    with LinearWork() as work:
        done = run_round(made, list("abc"), 1, Ledger(), lambda *_: None)
    d = made.base.hidden_size
    block = 12 * d * d  # attention's two layers and the two of the feed-forward
    expected = 0
    for client, did in done.items():
        rank = made.clients[client].adapters.adapters["h.0.attn.c_attn"].rank
        lora = 4 * d * rank  # d in, 3 d out, in one layer a block
        # two blocks here, two on the server, forward and back to their input; not below the lowest adapter's block
        expected += did.tokens * (2 * 4 * block - 3 * d * d)
        if (tokens, more) != (1, 0):  # a packed row: the last block gives keys and values, and the one token read
            expected += 2 * block - did.tokens * 2 * 9 * d * d
        expected += did.tokens * (2 * lora + 2 * 2 * lora - d * rank)
        expected += 3 * 2 * d  # the head: two classes, once a client
    assert work.total == expected


@pytest.mark.parametrize("update", ["pooled", "sequential"])
def test_a_bad_number_in_a_shared_pass_is_its_clients(update, make_federation, monkeypatch):
    federation = make_federation(training={**TRAINING, "server_update": update})
    party = federation.clients["b"]
    send = party.send
    monkeypatch.setattr(party, "send", lambda a, m, labels: send(a * torch.nan, m, labels))
    before = {name: t.clone() for name, t in trained(federation).items() if not name.startswith("server")}
    with pytest.raises(NonFiniteError, match="activation sent by client b, round 1, step 0"):
        run_round(federation, list("abc"), 1, Ledger(), lambda *_: None)
    assert all(torch.equal(t, before[name]) for name, t in trained(federation).items() if name in before)


def test_what_the_server_returns_for_one_client_is_checked(make_federation, monkeypatch):
    federation = make_federation(training=TRAINING)
    serve = split_server.serve

    def spoilt(*args):
        found = serve(*args)
        first, second, third = found.at_cut
        return found._replace(at_cut=[first, second * torch.inf, third])

    monkeypatch.setattr(split_server, "serve", spoilt)
    before = {name: t.clone() for name, t in trained(federation).items()}
    with pytest.raises(NonFiniteError, match="gradient for client b, round 1, step 0"):
        run_round(federation, list("abc"), 1, Ledger(), lambda *_: None)
    assert all(torch.equal(t, before[name]) for name, t in trained(federation).items())


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"engine": {"fuse": "off"}}, "engine.fuse"),
        ({"lora": {"dropout": 0.1}}, "lora.dropout"),
        ({"mode": "federated"}, "mode"),
        ({"training": {"autocast": "bfloat16"}}, "training.autocast"),
        ({"privacy": {"mask_gradients": True}}, "privacy.mask_gradients"),
        ({"privacy": {"examples": {"clip": 1.0, "noise_multiplier": 1.0}}}, "privacy.examples"),
        ({"privacy": {"pad_lengths": 8}}, None),
        ({"training": {"on_nonfinite": "drop-client"}}, "training.on_nonfinite"),
        ({}, None),
    ],
)
def test_what_keeps_clients_apart(changes, key, make_config):
    assert make_plan(make_config(**changes)).one_by_one == key


def test_a_family_that_cannot_pack_keeps_clients_apart(make_config):
    plan = make_plan(make_config())
    assert replace(plan, family=varied(plan.family, packs=False)).one_by_one == "model.name"


KINDS = st.lists(st.tuples(st.sampled_from(["x", "y", None]), st.integers(1, 400)), min_size=1, max_size=12)


@pytest.mark.slow
@given(clients=KINDS, update=st.sampled_from(["pooled", "sequential"]), width=st.sampled_from([384, 768, 1024]))
@settings(max_examples=200)
def test_every_client_is_in_one_pass_of_its_kind(clients, update, width):
    batches = {
        str(i): SimpleNamespace(n_tokens=tokens, input_ids=torch.empty(1, 2 * tokens))
        for i, (_, tokens) in enumerate(clients)
    }
    kinds = {str(i): kind for i, (kind, _) in enumerate(clients)}
    config = SimpleNamespace(training=SimpleNamespace(server_update=update))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "_kind", lambda _, client: kinds[client])
        base, server = SimpleNamespace(hidden_size=width), SimpleNamespace(real_tokens=True)
        federation = SimpleNamespace(config=config, base=base, server=server, graphs=None)
        found = list(passes(federation, batches))
    order = [client for each in found for client in each.clients]
    assert sorted(order, key=int) == list(batches)
    if update == "sequential":
        assert order == list(batches)
    for each in found:
        assert len({kinds[client] for client in each.clients}) == 1
        assert each.shared == (kinds[each.clients[0]] is not None)
        tokens = sum(batches[c].n_tokens for c in each.clients)
        assert not each.shared or len(each.clients) == 1 or tokens <= {384: 1024, 768: 512, 1024: 512}[width]


def test_a_pass_of_a_narrow_model_has_hidden_states_of_as_many_bytes_as_one_of_gpt2():
    assert [pass_tokens(width) for width in (384, 576, 768, 2048)] == [1024, 682, 512, 512]


def test_the_default_is_auto():
    assert ExperimentConfig.model_fields["engine"].get_default(call_default_factory=True).fuse == "auto"
