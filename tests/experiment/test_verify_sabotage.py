"""The proof at the start of a run: it passes on what is right, and fails on each way in which a split can be wrong."""

import copy
import json

import pytest
import torch
from support.tiny_models import WORDS

from atlas_cli.config.schema.experiment import ExperimentConfig
from atlas_cli.errors import AtlasError
from atlas_cli.experiment.split_check import Check, require_verified
from atlas_cli.experiment.split_proof import spread_by_length, verify_split
from atlas_cli.federation.build import build
from atlas_cli.federation.parties import shared_client_pass as client_pass
from atlas_cli.federation.parties.split_client import SplitClient
from atlas_cli.federation.parties.split_server import SplitServer
from atlas_cli.models.adapters.lora import LoRAAdapter
from atlas_cli.models.families.contract import NoPositions, PassEmbeddings
from atlas_cli.models.frozen.load import FrozenBase
from atlas_cli.models.halves import real_tokens as packed
from atlas_cli.models.halves.split import blocks_of, client_half, server_half
from atlas_cli.tasks._heads import pooled_token


@pytest.fixture(scope="module")
def data_file(tmp_path_factory):
    """Rows for every task type, of 3 to 12 words."""
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = []
    for i in range(24):
        words = [WORDS[(3 * i + j) % len(WORDS)] for j in range(3 + 3 * (i % 4))]
        text = " ".join(words)
        tags = ["B-X", *["O"] * (len(words) - 1)] if i % 2 else ["O"] * len(words)
        answers = [{"text": words[1], "answer_start": len(words[0]) + 1}]
        rows.append(
            {
                "text": text,
                "label": f"class {i % 2}",
                "tokens": words,
                "tags": tags,
                "question": "who is it",
                "context": text,
                "answers": answers,
                "prompt": "what is it",
                "response": text,
            }
        )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


@pytest.fixture
def federation(model_folder, data_file):
    def make(family="gpt2", task="sequence-classification", **changes):
        config = {
            "name": "test",
            "device": "cpu",
            "model": {"name": model_folder(family), "split_layer": 2, **changes.pop("model", {})},
            "lora": {"dropout": changes.pop("dropout", 0.0)},
            "server": {"rank": 2},
            "task_groups": {"g": {"task": task, "data": {"files": data_file}}},
            "clients": {"a": {"task_group": "g", "split_layer": 2, "rank": {0: 2, 1: 4}}},
            "training": {"max_length": 32, **changes.pop("training", {})},
            **changes,
        }
        return build(ExperimentConfig.model_validate(config))

    return make


@pytest.mark.parametrize("labels", ["server", "client"])
@pytest.mark.parametrize(
    ("family", "task"),
    [
        ("gpt2", "sequence-classification"),
        ("llama", "causal-lm"),
        ("qwen2", "instruction"),
        ("bert", "token-classification"),
        ("roberta", "question-answering"),
    ],
)
def test_a_right_split_passes(family, task, labels, federation):
    made = federation(family, task, training={"labels": labels}, dropout=0.3 if family == "qwen2" else 0.0)
    before = {name: t.clone() for name, t in made.clients["a"].adapters.state().items()}
    (check,) = verify_split(made)
    assert check.task_group == "g" and check.examples == 4
    assert check.padding_tokens > 0 and check.tokens > check.examples
    assert check.loss_difference <= 1e-7 and check.gradient_difference <= 1e-7
    assert check.gradient_norm > 1e-4 and check.adapter_effect > 1e-6
    if family == "qwen2":  # clients with dropout share no pass
        assert check.packed_loss_difference is None
    else:
        assert check.packed_loss_difference <= 1e-6 and check.packed_gradient_difference <= 1e-6
    assert check.passed and check.record()["passed"] is True
    require_verified([check])
    after = made.clients["a"].adapters.state()
    assert all(torch.equal(t, after[name]) for name, t in before.items()), "training state was touched"
    assert all(p.grad is None for p in made.clients["a"].trained())
    assert all(not m._forward_hooks for m in made.base.model.modules())


@pytest.mark.parametrize("cut", [1, 4])
def test_the_first_and_the_last_cut_pass(cut, federation):
    clients = {"a": {"task_group": "g", "split_layer": 2, "rank": 2}}
    made = federation(model={"split_layer": cut}, server={"rank": 2 if cut < 4 else 0}, clients=clients)
    require_verified(verify_split(made))


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_bfloat16_base_passes(family, federation):
    require_verified(verify_split(federation(family, model={"dtype": "bfloat16"})))


def positions_twice(patch, federation):
    wpe = federation.base.model.wpe
    patch.setattr(NoPositions, "forward", lambda self, position_ids: wpe(position_ids))


def embeddings_twice(patch, federation):
    embeddings = federation.base.model.embeddings
    patch.setattr(
        PassEmbeddings, "forward", lambda self, *_, inputs_embeds=None, **__: embeddings(inputs_embeds=inputs_embeds)
    )


def server_cut(layer):
    def sabotage(patch, federation):
        patch.setattr(FrozenBase, "server_half", lambda base, cut: server_half(base.model, base.family, layer))

    return sabotage


def client_cut(layer):
    def sabotage(patch, federation):
        patch.setattr(FrozenBase, "client_half", lambda base, cut: client_half(base.model, base.family, layer))

    return sabotage


def adapter_of_block_1_dropped(patch, federation):
    def half(base, cut):
        made = client_half(base.model, base.family, cut)
        blocks = blocks_of(made, base.family)
        # a copy of the block is not the one that the adapter is attached to
        blocks[1] = copy.deepcopy(blocks[1])
        return made

    patch.setattr(FrozenBase, "client_half", half)


def upper_adapter_dropped(patch, federation):
    halves = {}  # a copy that is made while the adapter is attached would have it

    def half(base, cut):
        if cut not in halves:
            halves[cut] = server_half(base.model, base.family, cut)
            blocks = blocks_of(halves[cut], base.family)
            blocks[0] = copy.deepcopy(blocks[0])
        return halves[cut]

    patch.setattr(FrozenBase, "server_half", half)


def no_final_norm(patch, federation):
    def half(base, family, cut):
        made = server_half(base, family, cut)
        setattr(made, family.final_norm, torch.nn.Identity())
        return made

    patch.setattr(FrozenBase, "server_half", lambda base, cut: half(base.model, base.family, cut))


def padding_attended(patch, federation):
    receive = SplitServer._receive

    def blind(self, message):
        received, mask = receive(self, message)
        return received, torch.ones_like(mask)

    patch.setattr(SplitServer, "_receive", blind)


def wrong_gradient(patch, federation):
    backward = SplitClient.backward
    patch.setattr(SplitClient, "backward", lambda self, gradients: backward(self, gradients * 1.001))


def positions_of_the_row(patch, federation):
    patch.setattr(client_pass, "positions_of", lambda base, packing, ids: torch.arange(packing.tokens))


def attention_over_the_row(patch, federation):
    whole = packed._each_to_itself
    patch.setattr(packed, "_each_to_itself", lambda lengths, *args, **options: whole([sum(lengths)], *args, **options))


def the_first_token_read(patch, federation):
    patch.setattr(type(federation.data["g"].task), "reads", lambda self, labels, mask: pooled_token("first", mask))


def adapters_without_effect(patch, federation):
    patch.setattr(LoRAAdapter, "add_to", lambda self, output, x: output + 0 * self(x))


@pytest.mark.parametrize(
    ("family", "sabotage"),
    [
        ("gpt2", positions_twice),
        ("bert", embeddings_twice),
        *((family, sabotage) for family in ("gpt2", "llama", "bert") for sabotage in (server_cut(1), server_cut(3))),
        ("gpt2", client_cut(1)),
        ("llama", client_cut(3)),
        ("gpt2", adapter_of_block_1_dropped),
        ("bert", adapter_of_block_1_dropped),
        ("llama", upper_adapter_dropped),
        ("gpt2", no_final_norm),
        ("llama", no_final_norm),
        ("gpt2", padding_attended),
        ("bert", padding_attended),
        ("gpt2", wrong_gradient),
        ("gpt2", adapters_without_effect),
        ("bert", positions_of_the_row),
        ("llama", attention_over_the_row),
        ("gpt2", the_first_token_read),
    ],
)
def test_sabotage_is_found(family, sabotage, federation, monkeypatch):
    made = federation(family)
    require_verified(verify_split(made))
    sabotage(monkeypatch, made)
    with pytest.raises(AtlasError, match=r"^the split at layer 2 is not the unsplit model for task group g: loss diff"):
        require_verified(verify_split(made))


def check_of(**changes):
    figures = {"loss_difference": 0.0, "gradient_difference": 0.0, "gradient_norm": 1.0, "adapter_effect": 0.1}
    return Check(
        **{
            "task_group": "g",
            "split_layer": 2,
            "examples": 4,
            "tokens": 9,
            "padding_tokens": 3,
            "tolerance": 1e-6,
            **figures,
            **changes,
        }
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_difference": 2e-6},
        {"gradient_difference": 2e-6},
        {"gradient_difference": float("inf")},
        {"loss_difference": float("nan")},
        {"gradient_difference": float("nan")},
        {"packed_loss_difference": 2e-5, "packed_gradient_difference": 0.0},
        {"packed_loss_difference": 0.0, "packed_gradient_difference": float("nan")},
        {"gradient_norm": 0.0},
        {"adapter_effect": 0.0},
        {"adapter_effect": float("nan")},
    ],
    ids=str,
)
def test_what_does_not_pass(changes):
    assert check_of().passed and check_of(loss_difference=1e-6).passed
    assert not check_of(**changes).passed
    with pytest.raises(AtlasError, match=r"not trained$") as error:
        require_verified([check_of(), check_of(task_group="second", **changes)])
    assert "task group second" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("lengths", "chosen"),
    [([5, 1, 9, 3, 7], [1, 3, 7, 9]), ([4], [4]), ([2, 6], [2, 2, 6, 6]), ([3, 3, 3, 3], [3, 3, 3, 3])],
)
def test_examples_are_spread_over_lengths(lengths, chosen):
    features = [{"input_ids": [1] * n, "labels": 0} for n in lengths]
    assert [len(f["input_ids"]) for f in spread_by_length(features, 4)] == chosen
