"""Clients that do not learn: what they send and get, what the server learns of them, and what of a group is merged."""

import pytest
import torch
from support.elsewhere import Hosts, same
from support.elsewhere import run as run_with
from support.rounds import run_round
from support.slow import slow

from atlas_cli.data.collate import collate
from atlas_cli.errors import ConfigError
from atlas_cli.experiment.round_loop import set_up
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.batches import batch_of
from atlas_cli.federation.parties.exchange import exchange_rows
from atlas_cli.federation.parties.kept_rows import row_keys
from atlas_cli.federation.round_time import StepFlops, simulate
from atlas_cli.planning.client_rows import read_kept
from atlas_cli.planning.devices.cost import client_step
from atlas_cli.planning.memory_of_plan import predict
from atlas_cli.planning.round_bytes import Shape, round_messages
from atlas_cli.tasks import build as build_task
from atlas_cli.wire.codecs import int8
from atlas_cli.wire.ledger import Ledger

FROZEN = {"task_group": "g", "learns": "frozen", "rank": 0}
ALL = {"clients": {name: FROZEN for name in "abc"}}
ONE_EPOCH = {"training": {"rounds": 3, "local_steps": 5}}  # 20 texts a client, four of them a batch
DEVICE = {"compute": "1 GFLOP/s", "uplink": "1 Mbit/s", "downlink": "2 Mbit/s"}


def bytes_by_round(federation, rounds):
    """Each round's bytes by kind and direction, of client a."""
    set_up(federation)
    found = []
    for number in range(1, rounds + 1):
        ledger = Ledger()
        trained = run_round(federation, list(federation.clients), number, ledger, lambda step, done: None)
        assert not ledger.mismatches()
        sums = {(kind, way): e.payload_bytes for (name, kind, way), e in ledger.entries.items() if name == "a"}
        found.append((sums, trained["a"], simulate(federation, trained, ledger)))
    return found


@pytest.mark.slow
def test_learns_what_a_client_with_a_learning_rate_of_0_does(make_federation, train_quietly):
    """A step of 1e-30 changes no float32 number; the two differ by rounding, for a text is computed alone here."""
    still = {"client_optimizer": {"name": "sgd", "lr": 1e-30}, "server_optimizer": {"name": "sgd", "lr": 0.1}}
    plain, frozen = make_federation(training=still), make_federation(training=still, **ALL)
    figures = [train_quietly(each) for each in (plain, frozen)]
    for a, b in zip(*(each.server.groups["g"].parameters() for each in (plain, frozen)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    losses = [[line["train_loss"] for line in each.metrics if line["round"]] for each in figures]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert not any(p.grad is not None for client in frozen.clients.values() for p in client.half.parameters())


@pytest.mark.parametrize("codec", ["none", *slow("int8")])
def test_activations_of_a_text_go_up_once_and_nothing_comes_down(make_federation, codec):
    devices = {"devices": {"d": DEVICE}, "clients": {name: {**FROZEN, "device": "d"} for name in "abc"}}
    federation = make_federation(**devices, **ONE_EPOCH, wire={"activations": {"codec": codec}})
    (first, did, _), (second, again, time), (third, *_) = bytes_by_round(federation, 3)
    assert {way for sums in (first, second, third) for _, way in sums} == {"up"}
    texts = federation.train_features("a")
    lengths = [len(ids) for ids, _ in {(tuple(f["input_ids"]), f["labels"]) for f in texts}]
    assert sorted(length for step in did.alone for length in step) == sorted(lengths)
    padded = sum(batch * tokens for batch, tokens in did.shapes)
    width = federation.split_client("a").base.hidden_size
    sent = width + 4 if codec == "int8" else 4 * width
    assert first["activations", "up"] == sum(length * sent + 16 for length in lengths) < padded * sent
    seen = sum(batch for batch, _ in again.shapes)
    assert second == {("rows", "up"): 8 * seen} and third.keys() == second.keys()
    flops = StepFlops(federation)
    assert all(own.total == 0 for own, _ in flops.of("a", again)) and flops.of("a", did)[0][0].forward > 0
    assert flops.of("a", did)[0][0].backward == 0
    blocks, cut = federation.plan.block_shapes, federation.plan.by_name["a"].cut
    alone = sum(client_step(blocks, cut, {}, 1, length).forward for length in lengths)
    encoded = sum(lengths) * width * (int8.Codec.encode_flops if codec == "int8" else 0)
    assert sum(own.forward for own, _ in flops.of("a", did)) == pytest.approx(alone + encoded)
    assert time.clients["a"].compute == time.clients["a"].download == 0 < time.clients["a"].upload


@pytest.mark.parametrize(("family", "codec"), [("bert", "none"), ("gpt2", "int8")])
def test_texts_that_are_new_have_the_bytes_that_are_planned(make_federation, lines, family, codec):
    """Of texts of one length, of which a plan's batch is made; a language model has a label a token."""
    groups = {"task_groups": lines} if family == "gpt2" else {}
    federation = make_federation(family, **ALL, **groups, wire={"activations": {"codec": codec}})
    set_up(federation)
    task, length, ledger, client = federation.data["g"].task, 4, Ledger(), federation.split_client("a")
    texts = [
        {k: v[:length] if isinstance(v, list) else v for k, v in f.items()} for f in federation.train_features("a")
    ]
    new = {row_keys(collate(task, [text], 0), task)[0]: text for text in texts}
    batch = collate(task, list(new.values())[:2], 0)
    federation.server.begin_round({"a": "g"}, 1)
    loss = exchange_rows(federation.server, client, batch, client.forward_batch(batch, 1, 0), ledger)
    assert batch.n_examples == 2 and loss.alone == (length,) * batch.n_examples and not ledger.mismatches()
    planned, shape = federation.plan.by_name["a"], Shape(batch.n_examples, length, True)
    said = round_messages(federation.plan, planned, task, shape).step
    assert (ledger.total("up", ["a"]), len(ledger.entries)) == (said.up, said.messages_up)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "steps"), [("bert", 2), ("gpt2", 5)])
def test_rounds_have_the_bytes_of_the_texts_that_are_left(make_federation, lines, family, steps):
    """Of some 20 texts, four of them a batch: two steps a round have sent them after three rounds."""
    groups = {"task_groups": lines} if family == "gpt2" else {}
    federation = make_federation(family, **ALL, **groups, training={"rounds": 5, "local_steps": steps})
    texts, notes = read_kept(federation.config, federation.plan.hf_config)
    said = predict(federation.plan, {"g": ["pos", "neg"]}, sent=texts)
    set_up(federation)
    first, later = {}, {}
    for number in range(1, 6):
        ledger, had = Ledger(), federation.server.kept.tokens
        run_round(federation, list("abc"), number, ledger, lambda step, done: None)
        for client in "abc":
            sent = ledger.total("up", [client])
            first.setdefault(client, sent)
            if had.get(client) == texts[client].tokens:
                later.setdefault(client, sent)
    assert {client: (sent.up, sent.later) for client, sent in said.rounds.items()} == {
        client: (first[client], later[client]) for client in "abc"
    }
    assert said.record()["round"]["a"] == {"bytes_up": first["a"], "bytes_down": 0, "later_bytes_up": later["a"]}
    assert "sends each text once" in notes[-1]
    one = make_federation(family, **ALL, **groups, training={"rounds": 1, "local_steps": 2})
    assert read_kept(one.config, one.plan.hf_config)[0]["a"].later == []


@pytest.mark.slow
def test_a_group_merges_the_adapters_of_those_that_have_one(make_federation, train_quietly):
    federation = make_federation(clients={"b": FROZEN, "c": FROZEN}, aggregation={"method": "delta-svd"})
    alone = federation.clients["a"].adapters
    lines = [line for line in train_quietly(federation).clients if line["round"] == 1]
    assert {line["client"]: line["weight"] for line in lines} == {"a": 1, "b": None, "c": None}
    assert all(line["participated"] for line in lines)
    merged = federation.aggregator.groups["g"].adapters
    assert merged.ranks == alone.ranks
    for path, adapter in merged.adapters.items():
        theirs = alone.adapters[path]
        torch.testing.assert_close(adapter.lora_B @ adapter.lora_A, theirs.lora_B @ theirs.lora_A)
        assert adapter.lora_B.any()
    ledger = Ledger()
    assert federation.aggregator.receive("b", ledger) == {} and not ledger.entries
    federation.aggregator.check_held("b")


@pytest.mark.slow
def test_goes_on_from_a_checkpoint_without_sending_again(make_federation):
    federation = make_federation(**ALL, **ONE_EPOCH)
    bytes_by_round(federation, 1)
    resumed = make_federation(**ALL, **ONE_EPOCH)
    resumed.server.load_state_dict(federation.server.state_dict())
    ledger, usage = Ledger(), resumed.server.measure()
    run_round(resumed, list("abc"), 2, ledger, lambda step, done: None)
    assert {kind for _, kind, _ in ledger.entries} == {"rows"}
    texts = {c: {(tuple(f["input_ids"]), f["labels"]) for f in resumed.train_features(c)} for c in "abc"}
    assert usage.kept_tokens == {c: sum(len(ids) for ids, _ in of_client) for c, of_client in texts.items()}
    kept, _ = read_kept(resumed.config, resumed.plan.hf_config)
    kept = {client: of_client.tokens for client, of_client in kept.items()}
    assert kept == usage.kept_tokens
    shape = Shape(usage.batch_size, usage.batch_tokens // usage.batch_size, True)
    said = predict(resumed.plan, {"g": ["pos", "neg"]}, {"server": shape}, kept=kept).record()["server"]
    found = usage.record()
    assert found["kept_activations"] == said["kept_activations"] == 4 * resumed.base.hidden_size * sum(kept.values())
    assert found["cut_buffers"] == said["cut_buffers"] > found["kept_activations"]
    state = RunState(federation).capture()
    kept = state[1]["server"]["kept"]
    for wrong, says in ({"texts": "00"}, "is not made of hashes"), ({"size": -1}, "has no counts of tokens and bytes"):
        broken = {**state[1], "server": {**state[1]["server"], "kept": {**kept, "a": {**kept["a"], **wrong}}}}
        with pytest.raises(Exception, match=rf"kept\.a {says}"):
            RunState(make_federation(**ALL, **ONE_EPOCH)).restore(state[0], broken)


@pytest.mark.slow
def test_elsewhere_as_in_one_process(make_federation):
    plain, remote = (make_federation(engine={"fuse": "off"}, **ALL) for _ in range(2))
    same(run_with(remote, Hosts(remote)), run_with(plain))


@pytest.mark.slow
def test_put_away_and_cached_as_in_memory(make_federation, train_quietly, tmp_path):
    plain = make_federation(clients={"b": FROZEN})
    engine = {"offload": "1 KiB", "prefix_cache": "1 MiB"}
    other = make_federation(clients={"b": FROZEN}, engine=engine, output={"dir": str(tmp_path)})
    lines = []
    for federation in (plain, other):
        recorder = train_quietly(federation)
        lines.append([line["train_loss"] for line in recorder.metrics if line["round"]])
        federation.close()
    assert lines[0] == lines[1]


def test_a_text_is_known_by_its_tokens_labels_and_segments(make_federation):
    federation = make_federation()
    batch, task = batch_of(federation, "a", 0), federation.data["g"].task
    keys = row_keys(batch, task)
    batch.token_type_ids = torch.zeros_like(batch.input_ids)
    assert row_keys(batch, task) == keys
    batch.token_type_ids[0, 0] = 1
    batch.labels[1] += 1
    assert [a == b for a, b in zip(row_keys(batch, task), keys, strict=True)] == [False, False, True, True]
    per_token = build_task("token-classification", ["a", "b"])
    batch.labels = torch.zeros_like(batch.input_ids)
    keys = row_keys(batch, per_token)
    batch.labels[batch.attention_mask == 0] = -100  # what padding has does not matter
    assert row_keys(batch, per_token) == keys


def test_refused_where_nothing_learns_or_the_base_changes(make_federation, lines):
    says = r"clients\.%s\.learns: frozen leaves all .* no adapter on the blocks above .*; set server\.rank to 1 or more"
    for family, groups in ("bert", {}), ("gpt2", {"task_groups": lines}):  # with a head that is trained, and without
        with pytest.raises(ConfigError, match=says % "a"):
            make_federation(family, **{**ALL, **groups, "server": {"rank": 0}})
    with pytest.raises(ConfigError, match=f"{says % 'b'}, and a smaller split_layer"):
        make_federation(clients={"b": {**FROZEN, "split_layer": 4}}, server={"rank": 2}, model={"split_layer": 2})
    with pytest.raises(ConfigError, match="frozen keeps a client's weights, and flora changes them"):
        make_federation(**ALL, aggregation={"method": "flora"})
