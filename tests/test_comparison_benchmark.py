"""``benchmarks/compare_aggregation.py``: its arithmetic, and that its controlled settings are what they say."""

import json

import compare_aggregation as comparison
import pytest
import torch
from compare_aggregation import Outcome, cells, finished, identical, table, written
from paired import Scored, first_at, paired, t_95
from shared_target import CLOSED, even, missing, share
from torch.nn.functional import layer_norm
from transformers import AutoTokenizer, BertModel
from word_means import write_model

from atlas_cli.config.load import load_config


@pytest.mark.parametrize(("degrees", "value"), [(1, 12.7062), (2, 4.3027), (7, 2.3646), (8, 2.3060), (30, 2.0423)])
def test_quantiles_of_student_are_those_of_the_tables(degrees, value):
    assert t_95(degrees) == pytest.approx(value, abs=1e-4)


def test_differences_are_of_the_same_seed():
    found = paired([0.5, 0.6, 0.7], [0.4, 0.5, 0.65])  # 0.1, 0.1, 0.05
    assert found.mean == pytest.approx(0.25 / 3) and found.half == pytest.approx(4.3027 * 0.0288675 / 3**0.5, rel=1e-4)
    assert found.excludes_zero()
    assert not paired([0.5, 0.6], [0.4, 0.7]).excludes_zero()
    assert paired([0.5], [0.4]).half is None and not paired([0.5], [0.4]).excludes_zero()


def outcome(accuracy, *rounds, trace=(1.0,)):
    return Outcome(accuracy, accuracy / 2, None, 3_000_000, 4_000_000, tuple(Scored(*r) for r in rounds), trace)


def test_a_target_costs_what_was_spent_until_the_first_round_that_reaches_it():
    rounds = [Scored(2, 0.3, 10), Scored(4, 0.5, 20), Scored(6, 0.45, 30)]
    assert first_at(0.4, rounds) == rounds[1] and first_at(0.6, rounds) is None
    runs = [outcome(0.5, (2, 0.3, 10**6), (4, 0.5, 2 * 10**6)), outcome(0.3, (2, 0.3, 10**6))]
    assert cells(runs, (), 0.4)[-2:] == ["4.0 (1 of 2)", "2"]
    assert cells(runs[1:], (), 0.4)[-2:] == ["not reached", ""]


def test_the_table_has_the_best_first_and_is_put_between_its_marks():
    outcomes = {"a": [outcome(0.40), outcome(0.60)], "b": [outcome(0.51), outcome(0.711)], "c": [outcome(0.1)]}
    found = table(outcomes, "a", 0.4)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in found.splitlines()]
    assert [row[0] for row in rows[2:]] == ["`b`", "`a`", "`c`"]
    assert rows[2][2:4] == ["0.611 ± 0.142", "**+11.0 ± 0.6**"] and rows[2][5] == "**+5.5 ± 0.3**"
    assert rows[3][3] == "" and rows[4][1:4] == ["1", "0.100", "-30.0"]  # of the one seed that both have
    page = f"head\n{comparison.MARKS[0]}old\n{comparison.MARKS[1]}tail\n"
    assert written(page, found) == f"head\n{comparison.MARKS[0]}\n{found}\n{comparison.MARKS[1]}tail\n"


def test_methods_that_trained_alike_in_every_seed_are_named():
    runs = {name: [outcome(0.5, trace=trace)] for name, trace in (("a", (1.0,)), ("b", (2.0,)), ("c", (1.0,)))}
    assert identical(runs) == [("a", "c")]


def test_a_run_of_before_a_key_came_is_found_again(tmp_path):
    config = load_config(comparison.CONFIG, ["seed=3"]).config
    was = config.model_dump(mode="json") | {"output": {"dir": "elsewhere"}}
    del was["evaluation"]["generate"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text(json.dumps({"status": "finished", "config": was}), encoding="utf-8")
    assert finished(tmp_path, config).path == tmp_path / "run"
    assert finished(tmp_path, load_config(comparison.CONFIG, ["seed=3", "training.rounds=2"]).config) is None


def test_the_block_passes_a_text_on_as_it_is(tmp_path):
    means = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    write_model(means, tmp_path)
    model, tokenizer = BertModel.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    tokens = tokenizer(["t0", "t4"], return_tensors="pt")
    assert tokens["input_ids"].shape == (2, 1)
    x = layer_norm(means[[0, 4]], (8,), eps=1e-12)
    assert torch.allclose(model(**tokens).last_hidden_state[:, 0], x, atol=1e-5)
    dW = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    model.encoder.layer[0].attention.output.dense.weight.data = dW
    moved = layer_norm(x + x @ dW.T, (8,), eps=1e-12)
    assert torch.allclose(model(**tokens).last_hidden_state[:, 0], moved, atol=1e-4)


@pytest.mark.parametrize("name", CLOSED)
def test_merges_of_clients_at_their_optimum_follow_theory(name):
    group, _ = missing(name, even(), 4)
    for rounds in (1, 4):  # lora-fair has a ridge of 1e-6
        assert group[rounds - 1] == pytest.approx(CLOSED[name](even(), rounds), rel=1e-5, abs=1e-12)


@pytest.mark.slow
def test_turns_of_near_components_grow_with_delta_svd():
    # above 1 / (1 + 0.6 lr / (2 - lr)), for six clients of ten: 0.625 and, at a server rate of 0.5, 0.833
    for ratio, lr, grows in ((0.6, 1, False), (0.8, 1, True), (0.8, 0.5, False)):
        spectrum, rounds = ratio ** torch.arange(16, dtype=torch.float64), 45
        group, _ = missing("delta-svd", spectrum, rounds, lr)
        left = spectrum * (1 - lr * share()) ** rounds
        assert (group[-1] > 2 * float(left.square().sum() / spectrum.square().sum())) == grows
