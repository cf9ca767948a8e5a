"""Clients that learn by a loss of their own: their gradient, what goes up and comes down, and what is merged."""

import pytest
import torch
import torch.nn.functional as F
from support.elsewhere import Hosts, same
from support.elsewhere import run as run_with
from support.real_client import batch_of, make_base
from support.rounds import run_round
from transformers import GPT2Config, GPT2Model

from atlas_cli.config.schema.experiment import LoraConfig, TrainingConfig
from atlas_cli.experiment.round_loop import set_up
from atlas_cli.federation.parties.auxiliary_client import AuxiliaryClient
from atlas_cli.federation.parties.setting import Setting
from atlas_cli.federation.round_time import STEP_KINDS, StepFlops, simulate
from atlas_cli.models.auxiliary_head import auxiliary_head
from atlas_cli.planning.round_bytes import Shape, round_messages
from atlas_cli.tasks import build as build_task
from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.messages import AdapterUpdate, HeadUpdate

LEARNS = {"learns": "auxiliary"}
ALL = {"clients": dict.fromkeys("abc", LEARNS)}
FROZEN = {"clients": {name: {"task_group": "g", "learns": "frozen", "rank": 0} for name in "abc"}}
RATE, PATH = 0.1, "h.1.mlp.c_proj"


def test_gradient_is_that_of_a_plain_model_of_its_blocks():
    """Two stock blocks with the update inside a weight, the final norm, the mean of tokens, a linear layer."""
    torch.manual_seed(0)
    base = make_base(GPT2Config(vocab_size=50, n_embd=8, n_layer=3, n_head=2, n_positions=16))
    task = build_task("sequence-classification", ["a", "b", "c"], "mean")
    training = {"client_optimizer": {"name": "sgd", "lr": RATE}, "max_grad_norm": None}
    setting = Setting(LoraConfig(targets=["mlp.c_proj"]), TrainingConfig.model_validate(training))
    head = auxiliary_head(base.model, base.config, base.family, task, None)
    client = AuxiliaryClient("a", base, 2, {PATH: 2}, setting, task=task, head=head)
    adapter = client.adapters.adapters[PATH]
    A, B = adapter.lora_A.detach().clone(), torch.randn_like(adapter.lora_B)
    adapter.lora_B.data.copy_(B)
    before = {name: p.detach().clone() for name, p in head.named_parameters()}
    batch, labels = batch_of(base, 3, 5, padded=True), torch.tensor([0, 2, 1])

    plain = GPT2Model(GPT2Config(vocab_size=50, n_embd=8, n_layer=2, n_head=2, n_positions=16)).eval()
    plain.load_state_dict({k: v for k, v in base.model.state_dict().items() if not k.startswith("h.2.")})
    weight = plain.h[1].mlp.c_proj.weight
    weight.data += adapter.scaling * (B @ A).T
    hidden, mask = plain(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
    logits = F.linear((hidden * mask).sum(1) / mask.sum(1), before["head.classifier.weight"])
    loss = F.cross_entropy(logits + before["head.classifier.bias"], labels)
    of_weight, of_norm = torch.autograd.grad(loss, [weight, plain.ln_f.weight])

    message = client.learn(batch, labels, 1, 0, RATE)
    stepped = {"A": A - adapter.lora_A, "B": B - adapter.lora_B, "norm": before["norm.weight"] - head.norm.weight}
    expected = {"A": B.T @ of_weight.T, "B": of_weight.T @ A.T, "norm": of_norm / adapter.scaling}
    for name, step in stepped.items():
        torch.testing.assert_close(step.detach(), RATE * adapter.scaling * expected[name], rtol=1e-4, atol=1e-6)
    assert message.activations.shape == hidden.shape and not message.activations.requires_grad


@pytest.mark.slow
def test_without_a_learning_rate_it_is_a_frozen_client(make_federation, train_quietly):
    """A step of 1e-30 changes no float32 number; a text is computed alone there, so that they differ by rounding."""
    still = {"client_optimizer": {"name": "sgd", "lr": 1e-30}, "server_optimizer": {"name": "sgd", "lr": 0.1}}
    own, frozen = make_federation(training=still, **ALL), make_federation(training=still, **FROZEN)
    losses = [[line["train_loss"] for line in train_quietly(each).metrics if line["round"]] for each in (own, frozen)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for a, b in zip(*(each.server.groups["g"].parameters() for each in (own, frozen)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_bytes_work_and_time_of_a_round(make_federation):
    """Up ceil(n / h) times b t (4 d + 1) + 8 b, adapters and head both ways; no gradient comes down."""
    device = {"compute": "1 GFLOP/s", "uplink": "1 Mbit/s", "downlink": "2 Mbit/s"}
    clients = {name: {**LEARNS, "device": "d"} for name in "abc"}
    training = {"local_steps": 5, "auxiliary": {"every": 2}}
    federation = make_federation(clients=clients, devices={"d": device}, training=training)
    set_up(federation)
    ledger = Ledger()
    done = run_round(federation, list(federation.clients), 1, ledger, lambda step, did: None)
    assert not ledger.mismatches()
    did, d = done["a"], federation.base.hidden_size
    entries = {(kind, way): e for (name, kind, way), e in ledger.entries.items() if name == "a"}
    assert did.sent == [True, False, True, False, True]
    sent = [shape for shape, some in zip(did.shapes, did.sent, strict=True) if some]
    assert entries["activations", "up"].payload_bytes == sum(b * t * (4 * d + 1) + 8 * b for b, t in sent)
    assert {way for kind, way in entries if kind in STEP_KINDS} == {"up"}
    work = StepFlops(federation).of("a", did)
    assert [of_server > 0 for _, of_server in work] == did.sent and all(own.backward > 0 for own, _ in work)
    time = simulate(federation, done, ledger)
    assert time.clients["a"].server == 0 < time.clients["a"].upload and time.seconds > time.clients["a"].compute
    federation.aggregator.receive("a", ledger)
    planned, task = federation.plan.by_name["a"], federation.data["g"].task
    said = round_messages(federation.plan, planned, task, Shape(4, 32, True))
    assert list(said.uploads) == did.sent and said.step.down == 0
    ends = [ledger.entries["a", kind, "up"] for kind in (AdapterUpdate.kind, HeadUpdate.kind)]
    assert list(said.end_up) == [entry.bytes for entry in ends]
    assert ends[1].payload_bytes == 4 * 2 * (d + 1)  # bert's blocks end in norms of their own


def test_heads_and_adapters_of_those_that_have_them_are_merged(make_federation, train_quietly):
    federation = make_federation(clients={"b": LEARNS, "c": LEARNS}, aggregation={"method": "delta-svd"})
    head, members = federation.aggregator.heads["g"], federation.aggregator.members
    train_quietly(federation)
    assert members["a"].head is None and members["b"].head is not members["c"].head
    for name, merged in head.named_parameters():
        assert all(dict(members[c].head.named_parameters())[name].equal(merged) for c in "bc")
    (model,) = federation.models_of_group("g").values()
    assert model.head is federation.server.heads["g"]


@pytest.mark.slow
def test_elsewhere_as_in_one_process(make_federation, lines):
    """Where a process has blocks alone, norm and output embedding come with the client."""
    clients = {"b": LEARNS, "c": {**LEARNS, "dtype": "bfloat16"}}
    training = {"auxiliary": {"every": 2}}
    given = {"engine": {"fuse": "off"}, "clients": clients, "task_groups": lines, "training": training}
    plain, remote = (make_federation("gpt2", **given) for _ in range(2))
    same(run_with(remote, Hosts(remote)), run_with(plain))
