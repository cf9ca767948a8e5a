"""Leakage by split layer: the measures against exact ones, and the way to the choice of a cut."""

import itertools
import json

import pytest
import torch
import yaml
from torch import nn

from atlas_cli.audit.depth import measure_depth, trace_of_squares
from atlas_cli.cli import main
from atlas_cli.config.load import load_config
from atlas_cli.federation.build import build
from atlas_cli.models.halves.split import run_half
from atlas_cli.planning.cuts.leakage import KNOWN
from atlas_cli.privacy.mechanisms.nopeek import distance_correlation


@pytest.mark.slow
def test_trace_estimate_is_unbiased():
    torch.manual_seed(0)
    function = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))
    x = torch.randn(3, 6)
    exact = torch.autograd.functional.jacobian(function, x).square().sum().item()
    estimate = trace_of_squares(function, x, 4000, torch.Generator().manual_seed(1))
    assert estimate == pytest.approx(exact, rel=0.03)


def test_a_linear_map_that_turns_has_the_trace_of_its_dimension():
    turn = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(0)))[0]
    # a single probe is exact here, as |Q^T v| = |v|
    assert trace_of_squares(lambda x: x @ turn, torch.zeros(7), 1, torch.Generator()) == pytest.approx(7, rel=1e-5)


def test_distance_correlation_of_what_depends_and_what_does_not():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 5, generator=draw)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=draw))[0]
    assert distance_correlation(x, 3 * x @ turn + 1) == pytest.approx(1, abs=1e-5)
    wide = [distance_correlation(x[:40], torch.randn(40, 300, generator=draw)) for _ in range(40)]
    assert abs(sum(wide) / 40) < 0.02  # the biased estimate of samples so few and wide is about 0.9
    assert 0.1 < distance_correlation(x, x.square()) < 0.9


@pytest.fixture
def config_path(toy, tmp_path):
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(toy()), encoding="utf-8")
    return tmp_path / "toy.yaml"


@pytest.mark.slow
def test_what_is_measured_chooses_the_cut(config_path, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["audit", "--by-layer", str(config_path), "--examples", "20", "--output", str(out), "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)
    assert [each["layer"] for each in layers] == [1, 2, 3, 4]
    assert layers == json.loads((out / "by-layer.json").read_text(encoding="utf-8"))
    assert all(each["client_memory"] > 0 and each["seconds"] > 0 and each["dfil"] > 0 for each in layers)
    assert all(a["client_memory"] < b["client_memory"] for a, b in itertools.pairwise(layers))
    assert (out / "by-layer.png").read_bytes()[:4] == b"\x89PNG" and b"<svg" in (out / "by-layer.svg").read_bytes()
    leakage = json.loads((out / "leakage.json").read_text(encoding="utf-8"))["layer"]
    assert leakage == {str(e["layer"]): pytest.approx(e["leakage"], abs=1e-4) for e in layers}
    model = load_config(config_path).config.model.name
    choose = [
        "split-point",
        model,
        "--leakage",
        str(out / "leakage.json"),
        "--json",
        "--max-length",
        "32",
        "--max-leakage",
    ]
    assert main([*choose, str(leakage["4"])]) == 0
    assert json.loads(capsys.readouterr().out)["split_layer"] >= 2
    assert main([*choose, "0.0"]) == 5
    assert "leaks more than 0.0" in capsys.readouterr().err


@pytest.mark.slow
def test_too_few_texts(config_path, capsys):
    assert main(["audit", "--by-layer", str(config_path), "partition.scheme=iid", "task_groups.g.data.limit=12"]) == 2
    assert "too few for an interval: " in capsys.readouterr().err


@pytest.mark.packaged
def test_recovery_from_the_packaged_encoder_is_what_is_known_of_it(tmp_path):
    groups = {"q": {"task": "sequence-classification", "data": {"corpus": "trec-questions", "limit": 400}}}
    config = {
        "name": "known",
        "device": "cpu",
        "model": {"name": "minilm"},
        "task_groups": groups,
        "clients": {"a": {"task_group": "q"}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    federation = build(load_config(tmp_path / "config.yaml").config)
    layers = measure_depth(federation, 64)
    for each in layers:
        assert each.recovered["nearest-embedding"].value == pytest.approx(KNOWN["minilm"].layers[each.layer], abs=0.05)
    assert layers[-1].recovered["ridge-inverter"].value > 0.7
    correlations = [each.distance_correlation for each in layers]
    assert correlations == sorted(correlations, reverse=True)
    ids = torch.tensor([federation.train_features("a")[0]["input_ids"]])
    hidden = run_half(federation.base.client_half(1), torch.ones_like(ids), input_ids=ids)
    assert hidden.shape[-1] == 384
