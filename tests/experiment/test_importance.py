"""Importance by layer: against the gradient of the frozen weight itself, and without a trace in the federation."""

import csv
import random

import pytest
import torch

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.data.collate import batch_indices, collate
from atlas_cli.errors import ConfigError
from atlas_cli.experiment.allocation.importance import layer_importance, measure_importance
from atlas_cli.experiment.recorder import Recorder
from atlas_cli.experiment.round_loop import train
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.build import build
from atlas_cli.models.adapters.lora import AdapterSet, LoRAAdapter, initial_A
from atlas_cli.models.families import family_of
from atlas_cli.models.halves.split import run_half
from atlas_cli.reports.progress import PlainProgress
from atlas_cli.reports.terminal import Terminal
from atlas_cli.seeding import torch_generator

TONE = {"pos": ["good", "great", "fine"], "neg": ["bad", "awful", "poor"]}


@pytest.fixture(scope="module")
def tone_csv(tmp_path_factory):
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("data") / "tone.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(40):
            label = ("pos", "neg")[i % 2]
            writer.writerow(
                [
                    " ".join([*draw.choices(["the", "film", "was", "very"], k=i % 7 + 1), draw.choice(TONE[label])]),
                    label,
                ]
            )
    return str(path)


@pytest.fixture
def federation_of(model_folder, tone_csv):
    def make(family="bert", lora=None, training=None, **changes):
        config = {
            "name": "toy",
            "device": "cpu",
            "model": {"name": model_folder(family), "split_layer": 3},
            "lora": {"rank": 2, **(lora or {})},
            "server": {"rank": 2},
            "task_groups": {"g": {"task": "sequence-classification", "data": {"files": tone_csv}}},
            "clients": {"a": {"task_group": "g"}, "b": {"task_group": "g", "rank": {0: 4, 2: 1}}},
            "training": {"rounds": 1, "local_steps": 2, "batch_size": 4, "max_length": 16, **(training or {})},
            **changes,
        }
        return build(ExperimentConfig.model_validate(config))

    return make


def by_hand(federation, client, number):
    """I_l of one batch from dL/dW of the unsplit model and the seeded A, at the probing rank."""
    base, task = federation.base, federation.data["g"].task
    features = federation.train_features(client)
    rows = batch_indices([len(f["input_ids"]) for f in features], 4, 0, client, number)
    batch = collate(task, [features[i] for i in rows], federation.pad)
    layers = {path: base.model.get_submodule(path) for path in federation.clients["a"].ranks}
    for layer in layers.values():
        layer.weight.requires_grad_(True)
    hidden = run_half(
        base.model, batch.attention_mask, **{k: v for k, v in batch.inputs().items() if k != "attention_mask"}
    )
    loss, _ = task.loss(federation.server.heads["g"](hidden, batch.attention_mask), batch.labels)
    gradients = torch.autograd.grad(loss, [layer.weight for layer in layers.values()])
    base.model.requires_grad_(False)
    rank = 16 if base.config.model_type == "llama" else 32  # its v_proj has 16 outputs
    found = {}
    for path, gradient in zip(layers, gradients, strict=True):
        gradient = gradient.T if "c_attn" in path else gradient  # Conv1D keeps (d_in, d_out)
        d_in = gradient.shape[1]
        rows_of_a = initial_A(rank, d_in, torch_generator(0, "lora-A", path))
        number_of_layer = int(path.removeprefix(f"{base.family.blocks}.").split(".")[0])
        value = 3 * d_in / rank * (gradient @ rows_of_a.T).square().sum().item()
        found[number_of_layer] = found.get(number_of_layer, 0) + value
    return found


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_equals_the_weight_gradient_seen_through_a(federation_of, family):
    federation = federation_of(family)
    found = measure_importance(federation, "b")
    first, second = by_hand(federation, "b", 0), by_hand(federation, "b", 1)
    assert list(found) == [0, 1, 2]
    for layer, value in found.items():
        assert value == pytest.approx((first[layer] + second[layer]) / 2, rel=1e-3)
        assert value > 0
    assert measure_importance(federation, "b", batches=1) == pytest.approx(first, rel=1e-3)


@pytest.mark.parametrize(("rank", "alpha"), [(1, 16), (4, 16), (4, 2), (16, 64)])
def test_expectation_is_the_squared_gradient_norm_at_any_rank_and_scale(rank, alpha):
    gradient = torch.randn(12, 48, generator=torch.Generator().manual_seed(1))
    adapter = LoRAAdapter(48, 12, min(rank, 12), alpha)
    adapters = AdapterSet({"h.3.attn.c_attn": adapter})
    generator = torch.Generator().manual_seed(2)
    draws, total = 600, 0.0
    for _ in range(draws):
        adapter.lora_A.data = initial_A(adapter.rank, 48, generator)
        adapter.lora_B.grad = adapter.scaling * gradient @ adapter.lora_A.data.T
        total += layer_importance(adapters, family_of("gpt2"))[3]
    assert total / draws == pytest.approx(gradient.square().sum().item(), rel=0.03)


def test_probing_rank_and_scale_do_not_matter(federation_of):
    reference = measure_importance(federation_of(), "a", rank=32)
    scaled = measure_importance(federation_of(lora={"alpha": 2.0, "rslora": True, "dropout": 0.3}), "a", rank=32)
    assert scaled == pytest.approx(reference, rel=1e-3)
    for layer, value in measure_importance(federation_of(), "a", rank=16).items():
        # of one A each, and the gradient has a rank of about one: a spread of sqrt(2 / 16), three times
        assert 0.3 < value / reference[layer] < 2.2
    too_large = measure_importance(federation_of(), "a", rank=1000)
    assert too_large == reference


@pytest.mark.slow
@pytest.mark.parametrize(
    "training",
    [
        {"server_update": "pooled"},
        {"server_update": "sequential"},
        {"server_update": "per-client"},
        {"labels": "client"},
    ],
    ids=lambda t: next(iter(t.values())),
)
def test_leaves_no_trace(federation_of, training):
    progress = PlainProgress(Terminal(quiet=True))
    progress.start(1, 2, ["g"])
    finished = []
    for measured in (False, True):
        federation = federation_of(training=training)
        if measured:
            tensors, state = RunState(federation).capture()
            tensors = {name: t.clone() for name, t in tensors.items()}
            random_state = torch.get_rng_state()
            measure_importance(federation, "a")
            after, state_after = RunState(federation).capture()
            assert state_after == state
            assert after.keys() == tensors.keys()
            assert all(torch.equal(after[name], tensors[name]) for name in tensors)
            assert torch.equal(torch.get_rng_state(), random_state)
            assert all(p.grad is None for party in federation.clients.values() for p in party.trained())
        train(federation, Recorder(federation, None, progress))
        finished.append(RunState(federation).capture()[0])
    assert all(torch.equal(finished[0][name], finished[1][name]) for name in finished[0])


@pytest.mark.slow
def test_labels_on_the_client_change_nothing(federation_of):
    kept = measure_importance(federation_of(training={"labels": "client"}), "b")
    assert kept == pytest.approx(measure_importance(federation_of(), "b"), rel=1e-4)


def test_depends_on_the_clients_data_and_the_servers_present_values(federation_of):
    federation = federation_of()
    before = measure_importance(federation, "a")
    assert measure_importance(federation, "a") == before
    assert measure_importance(federation, "b") != before
    with torch.no_grad():
        for parameter in federation.server.heads["g"].parameters():
            parameter.mul_(2)
    assert measure_importance(federation, "a") != before


def test_needs_a_split(federation_of):
    with pytest.raises(ConfigError, match="split-federated"):
        measure_importance(federation_of(mode="federated"), "a")
