"""The split computes what the unsplit model computes, to the last bit.

The oracle is one autograd pass over a stock Hugging Face model that atlas never cut, with plain torch for the head.
"""

import copy
from functools import cache
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from support.quantized import with_dense_weights
from support.slow import slow, slow_but
from support.tiny_models import CAUSAL, CAUSAL_FAMILIES, CONFIGS, FAMILIES, VARIANTS, VOCABULARY, tiny_model
from transformers import AutoModelForQuestionAnswering, AutoModelForTokenClassification

from atlas_cli import SplitClient, SplitServer, tasks
from atlas_cli.config.schema.experiment import LoraConfig, TrainingConfig
from atlas_cli.data.collate import collate
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen.cast import base_in_format
from atlas_cli.models.frozen.load import FrozenBase, as_base
from atlas_cli.models.frozen.weight_format import QUANTIZATIONS, WeightFormat
from atlas_cli.models.halves.split import server_half

N_LAYERS = 4
CLASSES = ["B-A", "I-A", "O"]
PADDED, FULL = (7, 3, 5, 4), (6, 6, 6, 6)


@cache
def shared(family):
    whole = tiny_model(family)
    return as_base(whole, family_of(whole.config.model_type), family, "random")


@cache
def stock(family):
    return tiny_model(family).requires_grad_(False)


def token_ids(length, seed):
    return torch.randint(5, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def batch_of(task_name, task, lengths, segments=False):
    """Label counts are powers of two, so that weighting by them and dividing again is exact."""
    features = []
    for i, length in enumerate(lengths):
        ids = token_ids(length, i)
        labels = {
            "sequence-classification": i % 3,
            "regression": i + 0.5,
            "token-classification": [-100, i % 3, 2, *[-100] * (length - 3)],
            "question-answering": [i % 3, 2],
            "causal-lm": [-100] * (length - 2) + ids[-2:],
            "instruction": [-100] * (length - 1) + ids[-1:],
        }[task_name]
        feature = {"input_ids": ids, "labels": labels}
        if segments and i % 2:
            feature["token_type_ids"] = [0, 0] + [1] * (length - 2)
        features.append(feature)
    return collate(task, features, 0)


def plain_loss(task_name, hidden, mask, labels, head, lm_head):
    """Each task's loss written out, from the hidden states of the whole model."""
    if task_name in ("causal-lm", "instruction"):
        following = F.pad(labels, (0, 1), value=-100)[:, 1:]
        return F.cross_entropy(lm_head(hidden).flatten(0, 1).float(), following.flatten())
    hidden = hidden.float()
    linear = head.classifier
    if task_name in ("sequence-classification", "regression"):
        if head.pool.pooling == "mean":
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        else:
            pooled = torch.stack([row[int(m.sum()) - 1] for row, m in zip(hidden, mask, strict=True)])
        if task_name == "regression":
            return (linear(pooled).squeeze(1) - labels).square().mean()
        return F.cross_entropy(linear(pooled), labels)
    if task_name == "token-classification":
        return F.cross_entropy(linear(hidden).flatten(0, 1), labels.flatten())
    logits = linear(hidden).masked_fill(mask[..., None] == 0, torch.finfo(torch.float32).min)
    return (F.cross_entropy(logits[..., 0], labels[:, 0]) + F.cross_entropy(logits[..., 1], labels[:, 1])) / 2


def randomise(adapters, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapters.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))


def split_pass(base, cut, task_name, lengths, *, u_shaped=False, segments=False, rank=3):
    """One batch through client and server: loss, all gradients, and the parties."""
    task = tasks.build(task_name, CLASSES, "last" if base.family.causal else "mean")
    batch = batch_of(task_name, task, lengths, segments)
    training = TrainingConfig(labels="client" if u_shaped else "server")
    lora = LoraConfig(alpha=6.0)
    upper_rank = rank if cut < N_LAYERS else 0
    server = SplitServer(
        base=base, tasks={"g": task}, split_layer=cut, rank=upper_rank, lora=lora, training=training, seed=1
    )
    head = copy.deepcopy(server.heads["g"])
    client = SplitClient(
        "c",
        rank_config=rank,
        split_layer=cut,
        base=base,
        lora=lora,
        training=training,
        task=task,
        head=head if u_shaped else None,
    )
    upper = server.groups["g"].adapters
    randomise(client.adapters, 1)
    randomise(upper, 2)
    server.begin_round({"c": "g"}, 0)
    message = client.forward(batch.inputs(), 0, 0, None if u_shaped else batch.labels)
    assert ("labels" in message.tensors) == (not u_shaped)
    if u_shaped:
        back, step_loss = client.answer_features(server.features(message), batch.labels)
        reply = server.answer_gradients(back)
    else:
        reply, step_loss = server.answer(message)
    client.backward(reply.gradients)
    server.accept()
    return SimpleNamespace(
        batch=batch,
        loss=step_loss.mean,
        gradients=[p.grad for p in client.trained()] + server.groups["g"].mean_gradients(),
        trained=[*client.trained(), *server.groups["g"].parameters()],
        client=client,
        server=server,
        upper=upper,
        head=head if u_shaped else server.heads["g"],
    )


def stock_parts(whole, family):
    return (whole.base_model, whole.get_output_embeddings()) if family in CAUSAL else (whole, None)


def unsplit_pass(whole, family, task_name, split):
    model, lm_head = stock_parts(whole, family)
    batch = split.batch
    with split.client.adapters.attached(model), split.upper.attached(model):
        hidden = model(**batch.inputs(), use_cache=False).last_hidden_state
        loss = plain_loss(task_name, hidden, batch.attention_mask, batch.labels, split.head, lm_head)
    return loss.item(), torch.autograd.grad(loss, split.trained)


def assert_equal(split, loss, gradients, without_effect=()):
    """``without_effect``: parameters on which the loss does not depend but for rounding."""
    assert split.loss == loss
    for parameter, mine, theirs in zip(split.trained, split.gradients, gradients, strict=True):
        assert theirs.abs().max() > 0 or any(parameter is one for one in without_effect)
        assert torch.equal(mine, theirs), f"differs by {(mine - theirs).abs().max():.3g}"


@pytest.mark.parametrize("lengths", [PADDED, FULL], ids=["padded", "full"])
@pytest.mark.parametrize("cut", range(1, N_LAYERS + 1))
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_at_every_cut(family, cut, lengths):
    split = split_pass(shared(family), cut, "sequence-classification", lengths)
    assert_equal(split, *unsplit_pass(stock(family), family, "sequence-classification", split))


@pytest.mark.parametrize("u_shaped", [False, True], ids=["labels-server", "labels-client"])
@pytest.mark.parametrize(
    ("family", "task_name", "cut"),
    [
        *[("gpt2", name, 2) for name in ("sequence-classification", "causal-lm", "instruction")],
        *[("gpt2", "token-classification", 1), ("llama", "question-answering", 3), ("llama", "causal-lm", 4)],
        *[("bert", "token-classification", 2), ("bert", "question-answering", 4), ("roberta", "question-answering", 1)],
        *[("distilbert", "token-classification", 3), ("qwen2", "instruction", 3), ("mistral", "instruction", 1)],
        *[("gpt2", "regression", 3), ("bert", "regression", 1)],
    ],
)
def test_every_task_type(family, task_name, cut, u_shaped):
    split = split_pass(shared(family), cut, task_name, PADDED, u_shaped=u_shaped)
    # a softmax over positions is the same with a number added to the scores of all of them
    without_effect = [split.head.classifier.bias] if task_name == "question-answering" else []
    assert_equal(split, *unsplit_pass(stock(family), family, task_name, split), without_effect)


@pytest.mark.parametrize("lengths", [PADDED, FULL], ids=["padded", "full"])
@pytest.mark.parametrize("cut", range(1, N_LAYERS + 1))
@pytest.mark.parametrize("family", [*CAUSAL_FAMILIES, *slow(*VARIANTS)])
def test_language_modelling_equals_the_loss_of_the_stock_model_with_labels(family, cut, lengths):
    split = split_pass(shared(family), cut, "causal-lm", lengths)
    whole = stock(family)
    with split.client.adapters.attached(whole.base_model), split.upper.attached(whole.base_model):
        loss = whole(**split.batch.inputs(), labels=split.batch.labels, use_cache=False).loss
    assert_equal(split, loss.item(), torch.autograd.grad(loss, split.trained))


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_token_classification_equals_the_stock_class(family):
    split = split_pass(shared(family), 2, "token-classification", PADDED)
    torch.manual_seed(0)
    config = CONFIGS[family]()
    config.num_labels = len(CLASSES)
    whole = AutoModelForTokenClassification.from_config(config).eval()
    weights, _ = stock_parts(stock(family), family)
    whole.base_model.load_state_dict(weights.state_dict(), strict=False)
    with torch.no_grad():
        whole.classifier.weight.copy_(split.head.classifier.weight)
        whole.classifier.bias.copy_(split.head.classifier.bias)
    with split.client.adapters.attached(whole.base_model), split.upper.attached(whole.base_model):
        loss = whole(**split.batch.inputs(), labels=split.batch.labels).loss
    adapters = [*split.client.adapters.parameters(), *split.upper.parameters()]
    assert split.loss == loss.item()
    theirs = torch.autograd.grad(loss, [*adapters, whole.classifier.weight, whole.classifier.bias])
    n = len(list(split.client.adapters.parameters()))
    mine = [*split.gradients[:n], *split.gradients[n + 2 :], *split.gradients[n : n + 2]]
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_question_answering_equals_the_stock_class_without_padding():
    split = split_pass(shared("bert"), 2, "question-answering", FULL)
    whole = AutoModelForQuestionAnswering.from_config(CONFIGS["bert"]()).eval()
    whole.base_model.load_state_dict(stock("bert").state_dict(), strict=False)
    with torch.no_grad():
        whole.qa_outputs.weight.copy_(split.head.classifier.weight)
        whole.qa_outputs.bias.copy_(split.head.classifier.bias)
    start, end = split.batch.labels.unbind(1)
    with split.client.adapters.attached(whole.base_model), split.upper.attached(whole.base_model):
        loss = whole(**split.batch.inputs(), start_positions=start, end_positions=end).loss
    assert split.loss == loss.item()
    lower = list(split.client.adapters.parameters())
    theirs = torch.autograd.grad(loss, lower)
    assert all(torch.equal(a, b) for a, b in zip(split.gradients, theirs, strict=False))


@pytest.mark.parametrize("cut", [1, 4])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_segments_reach_the_client_half(family, cut):
    split = split_pass(shared(family), cut, "sequence-classification", PADDED, segments=True)
    assert split.batch.token_type_ids is not None
    assert_equal(split, *unsplit_pass(stock(family), family, "sequence-classification", split))


@pytest.mark.parametrize(("family", "task_name"), [("llama", "causal-lm"), ("bert", "token-classification")])
def test_bfloat16_base(family, task_name):
    whole = tiny_model(family).to(torch.bfloat16).requires_grad_(False)
    base = as_base(copy.deepcopy(whole), family_of(CONFIGS[family]().model_type), family, "random")
    split = split_pass(base, 2, task_name, PADDED)
    assert all(g.dtype == torch.float32 for g in split.gradients)
    assert_equal(split, *unsplit_pass(whole, family, task_name, split))


@pytest.mark.parametrize("quantization", slow_but(QUANTIZATIONS[1:], "nf4"))
@pytest.mark.parametrize("cut", slow_but(range(1, N_LAYERS + 1), 2))
@pytest.mark.parametrize("family", [*slow_but(["gpt2", "llama", "bert"], "gpt2")])
def test_quantised_blocks_equal_the_stock_model_with_the_weights_that_they_stand_for(family, cut, quantization):
    base = base_in_format(shared(family), WeightFormat("float32", quantization))
    whole = copy.deepcopy(stock(family))
    with_dense_weights(stock_parts(whole, family)[0], base.model)
    split = split_pass(base, cut, "sequence-classification", PADDED)
    loss, gradients = unsplit_pass(whole, family, "sequence-classification", split)
    assert split.loss == pytest.approx(loss, abs=1e-6)
    for mine, theirs in zip(split.gradients, gradients, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("server_cut", [1, 3])
def test_a_server_cut_elsewhere_is_not_the_model(server_cut, monkeypatch):
    """The comparison has power: the same parts with one block run twice, or left out, give another loss."""
    right = split_pass(shared("llama"), 2, "causal-lm", PADDED)
    wrong_half = server_half(shared("llama").model, shared("llama").family, server_cut)
    monkeypatch.setattr(FrozenBase, "server_half", lambda base, cut: wrong_half)
    wrong = split_pass(shared("llama"), 2, "causal-lm", PADDED)
    assert abs(wrong.loss - right.loss) > 1e-4
