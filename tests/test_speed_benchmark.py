"""The contestants of ``benchmarks/speed.py`` do the same work: same losses, same trained values, every text."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from contestants.atlas import FIRST, atlas_rounds, atlas_steps
from contestants.experiment import GROUP, Arena, Experiment
from contestants.naive import NaiveSplit
from contestants.plain import pad
from contestants.products import Products
from contestants.trainer_rounds import TrainerRounds
from contestants.turns import StepByStep, Timed, Work, ratios, spread
from contestants.unsplit import trainer_steps, whole_model

from atlas_cli.data.collate import batch_indices
from atlas_cli.engines.in_process import local_steps
from atlas_cli.experiment.round_loop import set_up
from atlas_cli.federation.attendance import Attendance
from atlas_cli.wire.ledger import Ledger

BATCH, CLIENTS, EPOCH = 3, 2, 6


@pytest.fixture(scope="module")
def make_arena(tmp_path_factory, model_folder):
    """``make_arena(family)``: two clients with two of four layers, ``steps`` batches of three texts each."""

    def make(family, steps=EPOCH):
        folder = tmp_path_factory.mktemp(family)
        words = "the a film movie was very good bad great poor".split()
        rows = [f"{' '.join(words[i % 7 :][: 2 + i % 5])} {words[i % 10]},{'ab'[i % 2]}" for i in range(70)]
        (folder / "rows.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
        model = {"name": model_folder(family), "split_layer": 2}
        data = {"files": str(folder / "rows.csv"), "limit": CLIENTS * BATCH * steps}
        overrides = ["lora.rank=2", "server.rank=2", f"training.local_steps={steps}", "training.max_length=32"]
        experiment = Experiment(model, data, CLIENTS, BATCH, overrides)
        return Arena(experiment, folder)

    return make


def batch_of(arena, client, step, length=None):
    """What a client of atlas trains on in a step of round 2, padded by the contestants."""
    config, texts = arena.federation.config, arena.texts(client)
    overall = config.training.local_steps + step
    rows = batch_indices([len(t["input_ids"]) for t in texts], BATCH, config.seed, client, overall)
    return pad([texts[i] for i in rows], arena.pad, length)


def losses_of(federation, steps):
    """Mean losses by client of each of the first steps of atlas in round 2."""
    set_up(federation)
    found, sums = [], dict.fromkeys(federation.clients, 0.0)

    def on_step(step, done):
        found.append({c: (did.loss_sum - sums[c]) / BATCH for c, did in done.items()})
        sums.update({c: did.loss_sum for c, did in done.items()})
        if step == steps - 1:
            raise EnoughError

    attendance = Attendance(federation, list(federation.clients), FIRST)
    attendance.begin()
    with pytest.raises(EnoughError):
        local_steps(federation, attendance, Ledger(), on_step)
    return found


class EnoughError(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_others_have_the_losses_and_the_trained_values_of_atlas(make_arena, family):
    arena = make_arena(family)
    naive, padded, whole = NaiveSplit(arena), NaiveSplit(arena).padded(32), whole_model(arena)
    expected = losses_of(arena.federation, 2)
    for step, losses in enumerate(expected):
        for other, length in ((naive, None), (padded, 32)):
            found = other.train({c: batch_of(arena, c, step, length) for c in arena.clients})
            assert found == pytest.approx(losses, abs=1e-5)
    for client in arena.clients:
        loss = whole(**batch_of(arena, client, 0))["loss"].item()
        assert loss == pytest.approx(expected[0][client], abs=1e-5)
        mine = naive.clients[client].get_parameter  # B was zero, so all that it is now was trained
        for path, adapter in arena.federation.clients[client].adapters.adapters.items():
            B = mine(f"base_model.model.{path}.lora_B.default.weight")
            assert B.abs().max() > 1e-4
            torch.testing.assert_close(B, adapter.lora_B, atol=1e-5, rtol=1e-3)
    trained = {name: t for name, t in naive.server.named_parameters() if t.requires_grad}
    assert len(trained) == len(arena.adapters("server")) == len(arena.adapters("client"))
    served = arena.federation.server.groups[GROUP].adapters.state().values()  # both in the order of the layers
    for mine, theirs in zip(trained.values(), served, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-3)


@pytest.mark.slow
def test_everybody_trains_on_every_text_of_an_epoch(make_arena):
    arena = make_arena("gpt2")
    texts = sum(len(arena.texts(client)) for client in arena.clients)
    tokens = sum(len(t["input_ids"]) for client in arena.clients for t in arena.texts(client))
    naive, atlas = NaiveSplit(arena), atlas_steps(arena.federation)
    for contestant in (naive, atlas):
        done = [contestant.step() for _ in range(EPOCH)]
        assert (sum(w.samples for w in done), sum(w.tokens for w in done)) == (texts, tokens)
    atlas.close()
    alone = arena.texts(arena.clients[0])
    trainer = trainer_steps(arena)
    done = [trainer.step() for _ in range(EPOCH)]
    trainer.close()
    assert sum(w.tokens for w in done) == sum(len(t["input_ids"]) for t in alone)


def test_a_round_of_atlas_is_a_turn(make_arena):
    rounds = atlas_rounds(make_arena("gpt2").federation)
    assert rounds.step() == Work(0, 0)  # round 0: only delivers
    assert [rounds.step().samples for _ in range(2)] == [EPOCH * CLIENTS * BATCH] * 2
    rounds.close()


@pytest.mark.slow
def test_rounds_of_trainers_begin_at_the_mean_and_end_in_it(make_arena):
    arena = make_arena("gpt2", steps=1)  # one batch a client and round: in whichever order its texts come
    rounds, model = TrainerRounds(arena), whole_model(arena)
    mean = {name: p.detach().clone() for name, p in model.trained().items()}
    for _ in range(2):
        sums = dict.fromkeys(mean, 0.0)
        for client in arena.clients:
            with torch.no_grad():
                for name, p in model.trained().items():
                    p.copy_(mean[name])
            optimizer = torch.optim.AdamW(model.trained().values(), lr=arena.lr, weight_decay=0.0)
            optimizer.zero_grad()
            model(**pad(arena.texts(client), arena.pad))["loss"].backward()
            torch.nn.utils.clip_grad_norm_(model.trained().values(), arena.norm)
            optimizer.step()
            sums = {name: sums[name] + p.detach() / CLIENTS for name, p in model.trained().items()}
        before, mean = mean, sums
        assert rounds.step().samples == CLIENTS * BATCH
        for name, p in rounds.whole.trained().items():
            torch.testing.assert_close(p.detach(), mean[name], atol=1e-5, rtol=1e-3)
    assert max((mean[name] - before[name]).abs().max() for name in mean) > 1e-4
    rounds.close()


def test_products_are_those_of_the_linear_layers(make_arena):
    arena = make_arena("gpt2")
    width, blocks, tokens = 32, 4, 5
    products = Products(arena.federation, 1, tokens)
    forward = blocks * (3 + 1 + 4 + 4) * width**2
    assert products.flops == 2 * tokens * (2 * forward - 3 * width**2)
    assert products.step() == Work(1, tokens)


def test_a_ratio_is_that_of_tokens_a_second():
    taken = [
        {"a": Timed(1.0, Work(2, 30), 0.5), "b": Timed(4.0, Work(2, 40), 1.0)},
        {"a": Timed(1.0, Work(1, 9), 0.25), "b": Timed(1.0, Work(1, 9), 0.5)},
    ]
    assert ratios(taken, "a", "b") == [3.0, 1.0]
    assert ratios(taken, "a", "b", "processor") == [1.5, 2.0]
    assert spread([1.0, 2.0, 3.0]) == {"median": 2.0, "q1": 1.5, "q3": 2.5, "n": 3}


def test_an_error_in_a_loop_is_that_of_the_step():
    def loop(after_step):
        after_step(Work(1, 1))
        raise ValueError("broken")

    steps = StepByStep(loop)
    assert steps.step() == Work(1, 1)
    with pytest.raises(ValueError, match="broken"):
        steps.step()
