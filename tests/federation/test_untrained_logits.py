"""Logits of round 0 that another run kept: the same figures without a pass, and never those of another model."""

import pytest
import torch

from atlas_cli.experiment.round_loop import evaluate, evaluate_untrained
from atlas_cli.federation.parties import evaluation, untrained_logits
from atlas_cli.federation.parties.party import Halves

ALONE = {"partition": {"local_test": 0}}  # no test parts of clients
PARTS = 4  # with them


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path))
    monkeypatch.setattr(untrained_logits, "FEWEST", 0)
    return tmp_path / "untrained"


def seen(federation):
    """The figures of round 0, and the parts that were read and computed."""
    scores = evaluate_untrained(federation)
    return (scores.test, scores.clients), (federation.untrained.read, federation.untrained.computed)


def test_another_run_has_the_same_figures_without_a_pass(make_federation, monkeypatch, folder):
    expected = evaluate(federation := make_federation())
    figures, counted = seen(federation)
    assert counted == (0, PARTS) and figures == (expected.test, expected.clients)
    other = make_federation(training={"rounds": 7, "local_steps": 5, "client_optimizer": {"lr": 0.5}})
    monkeypatch.setattr(evaluation, "run_half", lambda *_, **__: pytest.fail("a pass"))
    assert seen(other) == (figures, (PARTS, 0))
    assert other.untrained.record() == {"read": PARTS, "computed": 0}
    assert other.evaluator.untrained is None  # later rounds are of trained models
    assert len([*folder.iterdir()]) == PARTS


def weight(federation):
    next(federation.base.model.parameters()).data.view(-1)[0] += 1e-3


def head(federation):
    next(federation.server.heads["g"].parameters()).data.view(-1)[0] += 1e-3


def cut(federation):
    federation.evaluator.halves = Halves(federation.base, federation.base, federation.evaluator.halves.cut + 1)


def texts(federation):
    federation.data["g"].test[0]["input_ids"][1] += 1


@pytest.mark.slow
@pytest.mark.parametrize("change", [weight, head, cut, texts])
def test_what_decides_logits_is_computed_anew(make_federation, change):
    seen(make_federation(**ALONE))
    changed = make_federation(**ALONE)
    with torch.no_grad():
        change(changed)
    assert seen(changed)[1] == (0, 1)
    assert seen(make_federation(**ALONE))[1] == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {"lora": {"alpha": 3}},
        {"seed": 1},
        {"engine": {"prepack": None}},
        {"server": {"rank": 3}},
        {"evaluation": {"batch_size": 3}},
    ],
)
def test_so_is_what_a_config_changes(make_federation, config):
    seen(make_federation(**ALONE))
    assert seen(make_federation(**ALONE, **config))[1] == (0, 1)


def test_so_is_what_another_version_or_number_of_threads_computes(make_federation, monkeypatch):
    seen(make_federation(**ALONE))
    for name in ("_code", "_rounding"):
        with monkeypatch.context() as patch:
            patch.setattr(untrained_logits, name, lambda: "other")
            assert seen(make_federation(**ALONE))[1] == (0, 1)


@pytest.mark.slow
def test_damaged_files_are_computed_anew_with_a_note(make_federation, folder, capsys):
    figures, _ = seen(make_federation(**ALONE))
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    for damage in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:40], b""):
        file.write_bytes(damage)
        assert seen(make_federation(**ALONE)) == (figures, (0, 1))
        assert "computing round 0 anew" in capsys.readouterr().err
        assert seen(make_federation(**ALONE)) == (figures, (1, 0))


@pytest.mark.slow
def test_noisy_large_infinite_and_foreign_logits_are_not_kept(make_federation, monkeypatch, folder):
    noise = {"privacy": {"activations": {"clip": 1.0, "noise_multiplier": 1.0}}, "training": {"labels": "client"}}
    assert seen(noisy := make_federation(**ALONE, **noise))[1] == (0, 0) and noisy.untrained.record() is None
    federation = make_federation(**ALONE)
    with monkeypatch.context() as patch:
        patch.setattr(untrained_logits, "MOST_OF_PART", 8)
        assert seen(federation)[1] == (0, 1)
    with monkeypatch.context() as patch:
        patch.setattr(type(federation.server.heads["g"]), "__module__", "another.package")
        assert seen(federation)[1] == (0, 0)
    federation.server.heads["g"].classifier.bias.data[0] = float("inf")
    assert seen(federation)[1] == (0, 1)
    assert not folder.exists()


def test_a_cache_that_cannot_be_written_stops_nothing(make_federation, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(untrained_logits, "replace", full)
    assert seen(make_federation(**ALONE))[1] == (0, 1)
