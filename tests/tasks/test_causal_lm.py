import math

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from atlas_cli import tasks
from atlas_cli.data.collate import collate, pad_token_id
from atlas_cli.errors import ConfigError

TEXTS = ["John lives in New York City.", "Paris", "Berlin is in Germany."]


@pytest.fixture(scope="module")
def batch(gpt):
    task = tasks.build("causal-lm")
    return collate(task, [f for text in TEXTS for f in task.encode({"text": text}, gpt, 64)], pad_token_id(gpt))


@pytest.fixture(scope="module")
def model(gpt):
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(gpt), n_positions=64, n_embd=16, n_layer=1, n_head=2)).eval()


def test_end_token_unless_cut(gpt):
    task = tasks.build("causal-lm")
    ids = gpt(TEXTS[0])["input_ids"]
    [whole] = task.encode({"text": TEXTS[0]}, gpt, 64)
    assert whole["input_ids"] == whole["labels"] == [*ids, gpt.eos_token_id] and whole["truncated"] is False
    [cut] = task.encode({"text": TEXTS[0]}, gpt, 4)
    assert cut["input_ids"] == ids[:4] and cut["truncated"] is True


def test_no_second_end_token(chat):
    [feature] = tasks.build("causal-lm").encode({"text": "Paris</s>"}, chat, 64)
    assert feature["input_ids"].count(chat.eos_token_id) == 1


def test_bad_rows(gpt):
    task = tasks.build("causal-lm")
    with pytest.raises(ConfigError, match="empty text"):
        task.encode({"text": ""}, gpt, 64)
    with pytest.raises(ConfigError, match="must be text, not list"):
        task.encode({"text": ["Paris"]}, gpt, 64)
    with pytest.raises(ConfigError, match="causal model"):
        task.build_head(16, None)


def test_head_is_the_frozen_output_embedding(model):
    lm_head = model.lm_head.requires_grad_(False)
    head = tasks.build("causal-lm").build_head(16, lm_head)
    hidden = torch.randn(2, 3, 16, requires_grad=True)
    logits = head(hidden, torch.ones(2, 3))
    assert torch.equal(logits, lm_head(hidden))
    assert not list(head.parameters()) and not head.state_dict()
    logits.sum().backward()
    assert hidden.grad is not None and lm_head.weight.grad is None
    lm_head.requires_grad_(True)


def test_loss_equals_hugging_face_with_padding(model, batch):
    task = tasks.build("causal-lm")
    assert (batch.attention_mask == 0).any()
    head = task.build_head(16, model.lm_head)
    hidden = model.transformer(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    loss, count = task.loss(head(hidden, batch.attention_mask), batch.labels)
    expected = model(batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
    torch.testing.assert_close(loss, expected)
    assert count == batch.n_tokens - batch.n_examples


def test_perplexity_by_hand_and_without_padding(batch):
    task = tasks.build("causal-lm")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*batch.input_ids.shape, 400, generator=generator)
    nll, hits, total = 0.0, 0, 0
    for b, feature in enumerate(batch.features):
        ids = feature["input_ids"]
        for t in range(len(ids) - 1):
            nll -= logits[b, t].log_softmax(-1)[ids[t + 1]].item()
            hits += logits[b, t].argmax().item() == ids[t + 1]
            total += 1
    expected = {"loss": nll / total, "perplexity": math.exp(nll / total), "token_accuracy": hits / total}

    whole = task.metric()
    padded = torch.cat([logits, torch.randn(3, 4, 400, generator=generator)], 1)
    whole.update(padded, task.label_tensor(batch.features, padded.shape[1]), batch.features)
    assert whole.compute() == pytest.approx(expected, rel=1e-5)

    single = task.metric()
    for b, feature in enumerate(batch.features):
        length = len(feature["input_ids"])
        single.update(logits[b : b + 1, :length], task.label_tensor([feature], length), [feature])
    assert single.compute() == pytest.approx(expected, rel=1e-5)


def test_perfect_prediction_has_perplexity_one(batch):
    task = tasks.build("causal-lm")
    logits = 100 * nn.functional.one_hot(batch.input_ids.roll(-1, 1), 400).float()
    metric = task.metric()
    metric.update(logits, batch.labels, batch.features)
    assert metric.compute() == pytest.approx({"loss": 0.0, "perplexity": 1.0, "token_accuracy": 1.0}, abs=1e-6)


def test_nothing_to_predict():
    task = tasks.build("causal-lm")
    logits = torch.randn(2, 1, 9, requires_grad=True)
    loss, count = task.loss(logits, torch.tensor([[3], [4]]))
    assert (loss.item(), count) == (0.0, 0)
    assert task._features([5], [5], 8) == []
