import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
from transformers import BertConfig, BertForTokenClassification

from atlas_cli import tasks
from atlas_cli.data.collate import collate
from atlas_cli.errors import ConfigError
from atlas_cli.tasks._metrics import entity_spans

CLASSES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
ROW = {
    "tokens": ["John", "lives", "in", "Newark", "City", "."],
    "tags": ["B-PER", "O", "O", "B-LOC", "I-LOC", "O"],
}


def build():
    return tasks.build("token-classification", CLASSES)


def test_first_piece_carries_the_label(bert):
    [feature] = build().encode(ROW, bert, 32)
    pieces = bert.convert_ids_to_tokens(feature["input_ids"])
    assert pieces == ["[CLS]", "john", "lives", "in", "new", "##a", "##r", "##k", "city", ".", "[SEP]"]
    assert feature["labels"] == [-100, 1, 0, 0, 3, -100, -100, -100, 4, 0, -100]
    assert feature["truncated"] is False and feature["meta"] == {"tags": ROW["tags"], "words": [0, 1, 2, 3, 4, 5]}


def test_byte_level_words_are_read_as_in_running_text(gpt):
    [feature] = build().encode(ROW, gpt, 64)
    assert feature["input_ids"] == gpt(" ".join(ROW["tokens"]))["input_ids"]
    assert [label for label in feature["labels"] if label != -100] == [1, 0, 0, 3, 4, 0]


def test_labels_in_gives_every_tag():
    assert build().labels_in(ROW) == ROW["tags"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tags": ["B-ORG"] + ["O"] * 5}, "'B-ORG' is not among the classes: O, B-PER"),
        ({"tags": ["O"]}, "6 tokens but 1 tags"),
        ({"tokens": "John lives"}, "'tokens' must be a list"),
        ({"tokens": ["John", None], "tags": ["O", "O"]}, "'tokens' must hold text only"),
        ({"tokens": [], "tags": []}, "empty text"),
        ({"tokens": [""], "tags": ["O"]}, "empty text"),
    ],
)
def test_bad_rows(bert, changed, message):
    with pytest.raises(ConfigError, match=message):
        build().encode(ROW | changed, bert, 32)


def test_no_room_for_a_word(bert):
    with pytest.raises(ConfigError, match=r"training\.max_length: no word of a row gives a token within 2 tokens"):
        build().encode(ROW, bert, 2)


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O O", []),
        ("B-PER I-PER O B-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
        ("B-PER B-PER", [("PER", 0, 0), ("PER", 1, 1)]),
        ("I-PER I-PER O I-LOC I-PER", [("PER", 0, 1), ("LOC", 3, 3), ("PER", 4, 4)]),  # IOB1
        ("I-PER B-PER", [("PER", 0, 0), ("PER", 1, 1)]),  # IOB1: B parts neighbours of one type
        ("B-PER I-LOC", [("PER", 0, 0), ("LOC", 1, 1)]),
        ("S-PER B-LOC I-LOC E-LOC S-LOC", [("PER", 0, 0), ("LOC", 1, 3), ("LOC", 4, 4)]),  # BIOES
        ("B-LOC E-LOC E-LOC", [("LOC", 0, 1), ("LOC", 2, 2)]),
        ("S-LOC I-LOC", [("LOC", 0, 0), ("LOC", 1, 1)]),
        ("U-PER B-LOC L-LOC", [("PER", 0, 0), ("LOC", 1, 2)]),  # BILOU
        ("B-A-B I-A-B", [("A-B", 0, 1)]),
        ("NOUN NOUN VERB O Other", [("NOUN", 0, 1), ("VERB", 2, 2), ("Other", 4, 4)]),  # no prefixes: runs
        ("B I O I", [("_", 0, 1), ("_", 3, 3)]),
    ],
)
def test_entity_spans(tags, spans):
    assert entity_spans(tags.split()) == set(spans)


def logits_for(tags):
    """Logits (1, T, C) that predict these class names; None is anything."""
    ids = [CLASSES.index(tag) if tag else 2 for tag in tags]
    return 10 * torch.nn.functional.one_hot(torch.tensor([ids]), len(CLASSES)).float()


def test_metrics_by_hand(bert):
    task = build()
    batch = collate(task, task.encode(ROW, bert, 32), 0)
    # John found; Newark without City: a wrong span; one false person
    metric = task.metric()
    predicted = [None, "B-PER", "B-PER", "O", "B-LOC", None, None, None, "O", "O", None]
    metric.update(logits_for(predicted), batch.labels, batch.features)
    figures = metric.compute()
    assert figures["entity_precision"] == pytest.approx(1 / 3)
    assert figures["entity_recall"] == pytest.approx(1 / 2)
    assert figures["entity_f1"] == pytest.approx(2 / 5)
    assert figures["token_accuracy"] == pytest.approx(4 / 6)


TAGS = ["O", *(f"{role}-{kind}" for role in "BIES" for kind in ("PER", "LOC", "A-B"))]
TAGGED = st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), min_size=1, max_size=8)  # gold, predicted


@pytest.mark.slow
@given(st.lists(TAGGED, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_entity_figures_are_those_of_seqeval(sentences):
    """Tags in any order, so most are ill-formed: I without B, E without an entity, types that change inside one."""
    task = tasks.build("token-classification", TAGS)
    metric = task.metric()
    gold, predicted = ([[pair[which] for pair in tagged] for tagged in sentences] for which in (0, 1))
    for labels, said in zip(gold, predicted, strict=True):
        ids_T, said_T = ([TAGS.index(tag) for tag in tags] for tags in (labels, said))
        logits_BTC = torch.nn.functional.one_hot(torch.tensor([said_T]), len(TAGS)).float()
        meta = {"tags": labels, "words": list(range(len(labels)))}
        feature = {"input_ids": ids_T, "labels": ids_T, "truncated": False, "meta": meta}
        metric.update(logits_BTC, task.label_tensor([feature], len(ids_T)), [feature])

    *micro, _ = precision_recall_fscore_support(gold, predicted, average="micro", zero_division=0)
    figures = metric.compute()
    assert [figures[f"entity_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(micro)
    counts = metric.by_class().values()  # by name, as seqeval has them
    right, said, labels = (np.array([each[name] for each in counts]) for name in ("right", "predicted", "labels"))
    by_class = right / np.maximum(said, 1), right / np.maximum(labels, 1), 2 * right / (said + labels), labels
    known = precision_recall_fscore_support(gold, predicted, average=None, zero_division=0)
    assert [each.tolist() for each in by_class] == [pytest.approx(each.tolist()) for each in known]


def test_truncated_words_count_as_missed(bert):
    task = build()
    [feature] = task.encode(ROW, bert, 6)  # [CLS] john lives in new [SEP]
    assert feature["truncated"] is True and feature["meta"]["words"] == [0, 1, 2, 3]
    metric = task.metric()
    predicted = [None, "B-PER", "O", "O", "B-LOC", None]
    metric.update(logits_for(predicted), task.label_tensor([feature], 6), [feature])
    figures = metric.compute()
    assert figures["token_accuracy"] == 1.0
    assert figures["entity_recall"] == 0.5 and figures["entity_precision"] == 0.5


def test_loss_equals_hugging_face_and_ignores_padding(bert):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForTokenClassification(BertConfig(vocab_size=len(bert), num_labels=len(CLASSES), **sizes)).eval()
    task = build()
    rows = [ROW, {"tokens": ["Paris"], "tags": ["B-LOC"]}]
    batch = collate(task, [f for row in rows for f in task.encode(row, bert, 16)], bert.pad_token_id)
    head = task.build_head(16, None)
    head.classifier.load_state_dict(model.classifier.state_dict())
    hidden = model.bert(batch.input_ids, batch.attention_mask).last_hidden_state
    logits = head(hidden, batch.attention_mask)
    loss, count = task.loss(logits, batch.labels)
    torch.testing.assert_close(loss, model(batch.input_ids, batch.attention_mask, labels=batch.labels).loss)
    assert count == 7

    padded = torch.cat([logits, torch.randn(2, 5, len(CLASSES))], 1)
    labels = task.label_tensor(batch.features, padded.shape[1])
    torch.testing.assert_close(task.loss(padded, labels)[0], loss)
    figures = []
    for some_logits, some_labels in ((logits, batch.labels), (padded, labels)):
        metric = task.metric()
        metric.update(some_logits, some_labels, batch.features)
        figures.append(metric.compute())
    assert figures[0] == pytest.approx(figures[1])
