import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from atlas_cli import tasks
from atlas_cli.data.collate import collate
from atlas_cli.errors import ConfigError

CLASSES = ["bad", "good", "neutral"]


def build(pooling="mean"):
    return tasks.build("sequence-classification", CLASSES, pooling)


def test_encodes_text_label_and_special_tokens(bert):
    [feature] = build().encode({"text": "Paris is good", "label": "good"}, bert, 16)
    assert bert.convert_ids_to_tokens(feature["input_ids"]) == ["[CLS]", "paris", "is", "good", "[SEP]"]
    assert feature["labels"] == 1 and feature["truncated"] is False and "token_type_ids" not in feature


def test_truncation_keeps_special_tokens_and_is_flagged(bert):
    [feature] = build().encode({"text": "paris is good . " * 9, "label": "good"}, bert, 6)
    assert len(feature["input_ids"]) == 6 and feature["input_ids"][-1] == bert.sep_token_id
    assert feature["truncated"] is True
    [exact] = build().encode({"text": "paris is good .", "label": "good"}, bert, 6)
    assert len(exact["input_ids"]) == 6 and exact["truncated"] is False


def test_pair_has_segments(bert):
    [feature] = build().encode({"text": "who is", "text_pair": "paris", "label": "bad"}, bert, 16)
    assert feature["token_type_ids"] == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "paris", "label": "awful"}, "'awful' is not among the classes: bad, good, neutral"),
        ({"text": None, "label": "bad"}, "'text' must be text, not NoneType"),
        ({"text": 3, "label": "bad"}, "'text' must be text, not int"),
        ({"text": "paris", "label": ""}, "must hold class names"),
        ({"text": "paris", "label": 0.5}, "must hold class names, not float"),
        ({"label": "bad"}, r"no field 'text' \(it has: label\)"),
        ({"text": "paris", "text_pair": 1, "label": "bad"}, "'text_pair' must be text"),
    ],
)
def test_bad_rows(bert, row, message):
    with pytest.raises(ConfigError, match=message):
        build().encode(row, bert, 16)


@pytest.mark.parametrize("text", ["", "\u200b\u200b", "\x07"])
def test_text_that_gives_no_token_of_its_own_is_refused(bert, text):
    for row in ({"text": text}, {"text": text, "text_pair": text}):
        with pytest.raises(ConfigError, match="empty text: field 'text' gives no token"):
            build().encode(row | {"label": "bad"}, bert, 16)


def test_empty_text_is_refused_without_special_tokens_too(gpt):
    with pytest.raises(ConfigError, match="empty text"):
        build().encode({"text": "", "label": "bad"}, gpt, 16)


def test_integer_labels_are_class_names_by_their_digits(bert):
    task = tasks.build("sequence-classification", ["0", "1"])
    assert task.labels_in({"label": 1}) == ["1"]
    assert task.encode({"text": "paris", "label": 1}, bert, 8)[0]["labels"] == 1


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_padding_changes_nothing(pooling):
    torch.manual_seed(0)
    task = build(pooling)
    head = task.build_head(8, None)
    hidden, mask = torch.randn(3, 5, 8), torch.tensor([[1] * 5, [1] * 3 + [0] * 2, [1] + [0] * 4])
    longer = torch.cat([hidden, torch.randn(3, 4, 8)], 1), torch.cat([mask, torch.zeros(3, 4, dtype=torch.int64)], 1)
    torch.testing.assert_close(head(hidden, mask), head(*longer))
    pooled = {"mean": hidden[1, :3].mean(0), "first": hidden[1, 0], "last": hidden[1, 2]}[pooling]
    torch.testing.assert_close(head(hidden, mask)[1], head.classifier(pooled))


def test_head_computes_in_float32_under_autocast_and_bfloat16():
    head = build().build_head(8, None)
    hidden, mask = torch.randn(2, 400, 8).bfloat16(), torch.ones(2, 400, dtype=torch.int64)
    expected = head.classifier(hidden.float().mean(1))
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(hidden, mask)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected)


def test_loss_equals_hugging_face(bert):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForSequenceClassification(BertConfig(vocab_size=len(bert), num_labels=3, **sizes)).eval()
    task = build("first")
    rows = [{"text": "paris is good", "label": "good"}, {"text": "berlin", "label": "bad"}]
    batch = collate(task, [f for row in rows for f in task.encode(row, bert, 16)], bert.pad_token_id)
    head = task.build_head(16, None)
    head.classifier.load_state_dict(model.classifier.state_dict())
    hidden = model.bert(batch.input_ids, batch.attention_mask).last_hidden_state
    pooled = model.bert.pooler.activation(model.bert.pooler.dense(hidden))  # HF reads the first token after its pooler
    loss, count = task.loss(head(pooled, batch.attention_mask), batch.labels)
    expected = model(batch.input_ids, batch.attention_mask, labels=batch.labels).loss
    torch.testing.assert_close(loss, expected)
    assert count == 2


def test_scores_of_many_classes_take_no_table_of_all_pairs():
    metric = tasks.build("sequence-classification", [f"c{i}" for i in range(3000)]).metric()
    metric.update(torch.eye(3000)[:5], torch.arange(5), [])
    assert sum(held.numel() for held in vars(metric).values() if isinstance(held, torch.Tensor)) <= 3 * 3000
    assert metric.compute()["accuracy"] == 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30), st.integers(1, 7))
def test_metrics_equal_scikit_learn(pairs, batch_size):
    task = build()
    labels, predictions = (torch.tensor(column) for column in zip(*pairs, strict=True))
    logits = torch.randn(len(pairs), 3, generator=torch.Generator().manual_seed(len(pairs)))
    logits[torch.arange(len(pairs)), predictions] += 20
    metric = task.metric()
    for i in range(0, len(pairs), batch_size):
        metric.update(logits[i : i + batch_size], labels[i : i + batch_size], [])
    figures = metric.compute()
    assert figures["accuracy"] == pytest.approx(accuracy_score(labels, predictions))
    assert figures["macro_f1"] == pytest.approx(f1_score(labels, predictions, average="macro", zero_division=0))
    assert figures["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert figures.keys() == {"accuracy", "macro_f1", "loss"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn says that it saw one class alone
        expected = matthews_corrcoef(labels, predictions)
    asked = judged(CLASSES, "matthews", logits, labels)
    assert asked.pop("matthews") == pytest.approx(expected, abs=1e-12) and asked.keys() == figures.keys()
    two = labels.clamp(max=1), predictions.clamp(max=1)
    f1 = judged(["no", "yes"], "f1", nn.functional.one_hot(two[1], 2).float(), two[0])["f1"]
    assert f1 == pytest.approx(f1_score(*two, zero_division=0))
    with pytest.raises(ConfigError, match="f1 is of the second of two classes, and there are 3; use macro_f1"):
        judged(CLASSES, "f1", logits, labels)


def judged(classes, metric, logits, labels):
    task = tasks.build("sequence-classification", classes, metric=metric)
    found = task.metric()
    found.update(logits, labels, [])
    return task.scores(found)


def test_the_end_or_the_start_is_kept_whatever_the_tokenizers_files_say(bert):
    bert, row = copy.deepcopy(bert), {"text": "paris berlin new york", "label": "good"}
    for side in ("left", "right"):
        bert.truncation_side = side
        kept = {
            end: tasks.build("sequence-classification", CLASSES, keep_end=end).encode(row, bert, 4) for end in (0, 1)
        }
        assert [bert.decode(kept[end][0]["input_ids"][1:-1]) for end in (0, 1)] == ["paris berlin", "new york"]
        assert bert.truncation_side == side
