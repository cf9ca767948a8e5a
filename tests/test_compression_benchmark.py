"""``benchmarks/compression.py``: the configs that it trains, and what is read off runs."""

import json

import pytest
from compression import CODECS, LINK, ROOT, TEXTS, evaluated, wanted
from compression_page import PAGE, Evaluated, Record, draw, never_used, page, read, row, table, target_of, write

from atlas_cli.config.load import load_config
from atlas_cli.wire.codecs import codec_of


@pytest.mark.parametrize("text", TEXTS)
def test_every_codec_is_one_that_the_configs_take(text):
    for wire in CODECS.values():
        changes = [*TEXTS[text].overrides, f"devices.link={LINK}", f"wire={json.dumps(wire)}"]
        config = load_config(ROOT / TEXTS[text].config, changes).config
        assert all(codec_of(asked, "wire") for _, asked in config.wire.by_kind().values())


def line(number, score, group="a"):
    test = {} if score is None else {"accuracy": score}
    return {
        **{"round": number, "task_group": group, "test": test, "bytes_up": 10, "bytes_down": 5},
        "simulated_seconds": 2.0,
    }


def test_scores_are_means_over_groups_and_costs_are_until_then_without_the_set_up():
    lines = [line(number, score, group) for number, score in ((0, 0.1), (1, None), (2, 0.6)) for group in "ab"]
    lines[-1]["test"] = {"accuracy": 0.8}
    assert list(evaluated(lines, "accuracy")) == [Evaluated(pytest.approx(0.7), 40, 20, 4.0)]


def test_a_codec_is_held_against_the_runs_of_the_same_seeds(tmp_path):
    plain = [[Evaluated(0.5, 100, 100, 1.0), Evaluated(score, 200, 200, 2.0)] for score in (0.8, 0.6)]
    ours = [[Evaluated(0.695, 10, 20, 0.1), Evaluated(score, 20, 40, 0.2)] for score in (0.79, 0.58)]
    target = target_of(plain, "accuracy")
    assert target == pytest.approx(0.69)
    found = row("int4", ours, plain, "accuracy", target)
    assert (found.loss, found.up, found.down, found.reached) == (pytest.approx(1.5), 0.1, 0.2, 2)
    assert found.half == pytest.approx(12.706 * 0.5, rel=1e-3)  # differences of 1 and 2 points, one degree of freedom
    assert (found.megabytes, found.seconds) == (pytest.approx(30e-6), pytest.approx(0.1))
    worse = row("int4", [[Evaluated(5.5, 1, 1, 1.0)]], [[Evaluated(5.0, 2, 2, 2.0)]], "perplexity", 5.05)
    assert worse.loss == pytest.approx(9.53, abs=0.01) and worse.reached == 0 and worse.megabytes is None
    assert "| int4 | 0.685 | 1.50 ± 6.35 | 10.0% | 20.0% | 2 of 2 |" in table([found], "accuracy", target)
    draw(tmp_path / "picture", {"news": [found], "language": [worse]}, {"news": "accuracy", "language": "perplexity"})
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["picture-dark.svg", "picture-light.svg"]


def test_the_page_is_that_of_the_records():
    assert PAGE.read_text(encoding="utf-8") == page(read(), CODECS)


def test_codecs_that_had_nothing_to_go_on_from_are_told():
    one, other = ([[Evaluated(score, 100, 100, 1.0)]] for score in (0.5, 0.6))
    names = {"none": one, "int8": other, "int4": other, "delta int4": other, "top-k 0.05, feedback": one}
    record = Record("a.yaml", [], "accuracy", [{}], names)
    assert never_used(record, CODECS) == ["delta int4", "top-k 0.05, feedback"]
    names["delta int4"] = [[Evaluated(0.61, 100, 100, 1.0)]]
    assert never_used(record, CODECS) == ["top-k 0.05, feedback"]


def test_runs_that_are_on_record_are_not_done_again(tmp_path):
    curve = [Evaluated(0.5, 100, 100, 1.0)]
    record = Record("a.yaml", ["seed=1"], "accuracy", [{}], {"none": [curve, curve], "int8": [curve]})
    write({"news": record}, tmp_path / "records.json")
    assert read(tmp_path / "records.json") == {"news": record}
    assert wanted(record, ["none", "int4", "int8"], 2) == [("int4", 0), ("int4", 1), ("int8", 1)]
    assert not record.is_of(Record("a.yaml", [], "accuracy"))
