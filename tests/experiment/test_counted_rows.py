"""Rows of the token embedding that planning counts in a client's texts, and what a client with them takes."""

import pytest

from atlas_cli.errors import ConfigError
from atlas_cli.experiment.allocation.auto_ranks import plan_ranks
from atlas_cli.experiment.allocation.device_fit import fit_to_devices
from atlas_cli.experiment.allocation.measured_client import take_steps
from atlas_cli.planning.client_rows import read_rows
from atlas_cli.planning.memory_of_plan import predict
from atlas_cli.planning.plan import make_plan
from atlas_cli.planning.round_bytes import Shape

WORDS = 20_000  # in a vocabulary of which the texts have a few
ROWS = {"embedding": "rows"}


@pytest.fixture
def make_wide(make_config, model_folder):
    def make(memory=10**9, cut=2, **client):
        sizes = {"vocab_size": WORDS, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}
        model = {"name": "gpt2", "init": "random", "config": sizes, "tokenizer": model_folder("gpt2")}
        clients = {"a": {"device": "phone", "split_layer": cut, **client}}
        return make_config("gpt2", model=model, clients=clients, devices={"phone": {"memory": f"{memory} B"}})

    return make


@pytest.mark.slow
def test_a_plan_takes_the_rows_that_the_texts_of_a_client_need(make_wide):
    config = make_wide(**ROWS)
    plan, table = make_plan(config), 4 * 32 * WORDS
    rows, notes = read_rows(config, plan.hf_config)
    assert rows.keys() == {"a"} and 10 < rows["a"] < 60 and not notes
    said = predict(plan, {"g": ["pos", "neg"]}, rows=rows).clients["a"]
    half = sum(t.nbytes for t in plan.setup_tensors[2, plan.by_name["a"].format].values())
    assert said.frozen_weights == half - table + rows["a"] * (4 * 32 + 8)
    found = take_steps(plan, "a", Shape(4, 32, True), ["pos", "neg"], rows["a"])
    assert found.parts["frozen_weights"] == said.frozen_weights and found.parts["embedding_rows"] == rows["a"]
    assert said.peak == pytest.approx(found.peak, rel=0.05)


@pytest.mark.slow
def test_a_device_that_holds_the_rows_and_not_the_table(make_wide):
    table, rows = (plan_ranks(make_wide(**more)).clients[0].memory.peak for more in ({}, ROWS))
    with pytest.raises(ConfigError, match=r"client a needs .*, or set embedding: rows \(needs"):
        fit_to_devices(make_wide(rows))
    assert fit_to_devices(make_wide(rows, **ROWS)).clients[0].memory.peak == rows < table
    cuts = [make_plan(make_wide(table, "auto", **more)).clients[0].cut for more in ({}, ROWS)]
    assert cuts == [2, 3]  # the fourth block is the server's


def test_texts_that_cannot_be_read_have_rows_that_are_assumed(make_wide):
    config = make_wide(**ROWS)
    gone = config.model_copy(update={"model": config.model.model_copy(update={"tokenizer": "/nowhere"})})
    rows, (note,) = read_rows(gone, make_plan(config).hf_config)
    assert rows == {"a": 16_384} and note.startswith("embedding: rows is counted with 16,384 rows, since its texts")
