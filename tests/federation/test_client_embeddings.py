"""Clients that hold rows of the token embedding: what they compute, hold and are proved to be."""

import pytest
import torch
from support.slow import slow

from atlas_cli.errors import AtlasError, ConfigError
from atlas_cli.experiment.memory_record import MeasuredRound
from atlas_cli.experiment.round_loop import set_up
from atlas_cli.experiment.run_state import RunState
from atlas_cli.experiment.split_check import require_verified
from atlas_cli.experiment.split_proof import verify_split
from atlas_cli.models.frozen.row_embedding import row_embeddings
from atlas_cli.models.frozen.weight_format import WeightFormat
from atlas_cli.planning.client_rows import read_rows
from atlas_cli.planning.memory_of_plan import predict, shapes_of
from atlas_cli.planning.plan import make_plan

ROWS = {"embedding": "rows"}
SOME = {"clients": {"a": ROWS, "b": ROWS}}
NARROW = {"clients": {"a": {**ROWS, "dtype": "bfloat16"}, "b": ROWS, "c": {"dtype": "bfloat16"}}}
LOCAL = {"partition": {"local_test": 0.3}}


def state(federation):
    tensors, values = RunState(federation).capture()
    return values, {name: tensor.tolist() for name, tensor in tensors.items()}


@pytest.fixture
def threads(request):
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("threads", [1, *slow(2)], indirect=True)
@pytest.mark.parametrize(("family", "lm"), [("gpt2", True), *slow(("bert", False), ("llama", True), ("opt", True))])
def test_a_run_is_that_with_the_table_bit_for_bit(family, lm, threads, lines, make_federation, train_quietly):
    given = LOCAL | ({"task_groups": lines} if lm else {})
    table, rows = make_federation(family, **given), make_federation(family, **given, **SOME)
    for made in (table, rows):  # a word that no training text of the client has
        made.data["g"].local_test["a"][0]["input_ids"][0] = 50
    told = [train_quietly(made) for made in (table, rows)]
    assert state(table) == state(rows)
    scores = [[(m["train_loss"], m["test"], m["bytes_up"], m["bytes_down"]) for m in each.metrics] for each in told]
    assert scores[0] == scores[1]
    assert [c["local_test"] for c in told[0].clients] == [c["local_test"] for c in told[1].clients]
    # both share one embedding and have the blocks of the base; the third client has its table
    a, b, c = (rows.clients[name].base for name in "abc")
    assert a is b and c is rows.base and rows.bases.keys() == {WeightFormat(), WeightFormat(embedding="rows")}
    (embedding,) = row_embeddings(a.model)
    assert 50 not in embedding.tokens and embedding.read % 3 == 0 < embedding.read  # in each evaluation, and not kept
    assert {id(p) for p in a.model.parameters()} - {id(p) for p in c.model.parameters()} == {id(embedding.held.weight)}


def by_hand(federation, client):
    """The different tokens of a client's training texts, and padding."""
    return len({0, *(token for f in federation.data["g"].train[client] for token in f["input_ids"])})


@pytest.mark.slow
def test_memory_is_that_of_the_clients_own_tokens_as_predicted_from_its_texts(make_config, make_federation, lines):
    made = make_federation("gpt2", **LOCAL, **NARROW, task_groups=lines)
    counts = {name: by_hand(made, name) for name in "ab"}
    said, notes = read_rows(made.config, made.plan.hf_config)
    assert said == counts and not notes
    measured = MeasuredRound(made, 1, list("abc"))
    for name in "abc":
        made.clients[name].usage.add_step(1, 1, 4, 32)
    memory = measured.record()
    assert {name: memory["clients"][name].get("embedding_rows") for name in "abc"} == {**counts, "c": None}
    predicted = predict(make_plan(made.config), {}, shapes_of(memory), said).clients
    held = {name: memory["clients"][name]["frozen_weights"] for name in "abc"}
    assert held == {name: predicted[name].frozen_weights for name in "abc"}
    table = made.base.model.wte.weight
    assert held["c"] - held["a"] == table.numel() * 2 - counts["a"] * (table.shape[1] * 2 + 8)
    # what is read from disk is there once for all clients of a dtype, and no copy of the table is
    (shared,) = row_embeddings(made.clients["a"].base.model)
    assert len(shared.tokens) == counts["a"] < len(table)


def test_the_split_is_proved_for_rows_and_a_row_that_is_not_the_models_is_found(make_federation):
    made = make_federation("bert", **NARROW)
    checks = verify_split(made)
    require_verified(checks)
    assert sorted(check.place for check in checks) == [
        *("layer 2 in bfloat16", "layer 2 in bfloat16 with embeddings by the row"),
        "layer 2 with embeddings by the row",
    ]
    (embedding,) = row_embeddings(made.clients["b"].base.model)
    embedding.held.weight[1, 0] += 0.25
    with pytest.raises(AtlasError, match=r"group g hold with embeddings by the row are not the model's.*by 0\.25"):
        require_verified(verify_split(made))


def test_set_up_gives_a_client_the_whole_table_for_its_disk(make_federation):
    weights = [
        {c: e.payload_bytes for (c, kind, _), e in set_up(made).entries.items() if kind == "base-weights"}
        for made in (make_federation(), make_federation(**SOME))
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("mode", ["federated", "local-only", "centralized"])
def test_a_client_with_the_whole_model_has_the_whole_table(mode, make_config):
    method = {"aggregation": {"method": "none"}} if mode == "local-only" else {}
    plan = make_plan(make_config(**SOME, mode=mode, **method))
    assert {client.format for client in plan.clients} == {WeightFormat()}


def test_a_client_whose_output_embedding_is_the_table_says_that_it_cannot(make_config, lines):
    stays = {"training": {"labels": "client"}}
    refused = r"labels: client, clients of causal-lm have the output embedding.*use embedding: table"
    with pytest.raises(ConfigError, match=refused) as error:
        make_plan(make_config("gpt2", **SOME, **stays, task_groups=lines))
    assert error.value.key == "clients.a.embedding"
    make_plan(make_config("gpt2", **SOME, **stays))  # a head of its own
    make_plan(make_config("llama", **SOME, **stays, task_groups=lines))  # an output embedding of its own
