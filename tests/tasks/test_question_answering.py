import json
import math
import re
import string
from collections import Counter

import pytest
import torch
from transformers import BertConfig, BertForQuestionAnswering

from atlas_cli import tasks
from atlas_cli.data.collate import collate
from atlas_cli.data.formats.json_rows import read_json
from atlas_cli.errors import ConfigError
from atlas_cli.tasks._metrics import answer_f1, exact_match
from atlas_cli.tasks.question_answering import best_span, find_answers

CONTEXT = "Berlin is in Germany. Paris is the capital of France. John lives in New York City."
QUESTION = "What is the capital of France?"
ROW = {"question": QUESTION, "context": CONTEXT, "answers": "Paris"}


def encode(row, tokenizer, max_length):
    return tasks.build("question-answering").encode(row, tokenizer, max_length)


def span_text(feature):
    (start, end), meta = feature["labels"], feature["meta"]
    offsets = meta["offsets"]
    return meta["context"][offsets[start - meta["first"]][0] : offsets[end - meta["first"]][1]]


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["New York City", "York"], "answer_start": [68, 72]},
        [{"text": "New York City", "answer_start": 68}],
        [{"text": "New York City", "start": 68}],
        [{"text": "New York City"}],
        ["New York City"],
        "New York City",
    ],
)
def test_all_forms_of_answers_give_the_same_span(bert, answers):
    [feature] = encode(ROW | {"answers": answers}, bert, 64)
    assert span_text(feature) == "New York City"
    start, end = feature["labels"]
    assert bert.convert_ids_to_tokens(feature["input_ids"][start : end + 1]) == ["new", "york", "city"]


@pytest.mark.parametrize("answers", ["", [], [""], {"text": [], "answer_start": []}])
def test_no_answer_is_the_first_token(bert, gpt, answers):
    for tokenizer in (bert, gpt):
        features = encode(ROW | {"answers": answers}, tokenizer, 200)
        assert [feature["labels"] for feature in features] == [[0, 0]]
        assert features[0]["meta"]["answers"] == []


@pytest.mark.parametrize("max_length", [20, 24, 33, 64])
@pytest.mark.parametrize("answer", ["Paris", "capital of France. John lives"])
def test_windows_cover_the_context_and_hold_the_answer(bert, gpt, max_length, answer):
    begin, end = CONTEXT.index(answer), CONTEXT.index(answer) + len(answer)
    for tokenizer, length in ((bert, max_length), (gpt, 3 * max_length)):
        features = encode(ROW | {"answers": answer}, tokenizer, length)
        assert all(len(feature["input_ids"]) <= length for feature in features)
        assert [feature["meta"]["window"] for feature in features] == list(range(len(features)))
        covered = {i for f in features for left, right in f["meta"]["offsets"] for i in range(left, right)}
        assert {i for i, letter in enumerate(CONTEXT) if letter != " "} <= covered
        assert all(span_text(f).strip() == answer for f in features if f["labels"] != [0, 0])
        for feature in features:  # a window is labelled if and only if all of the answer is in it
            offsets = feature["meta"]["offsets"]
            assert (offsets[0][0] <= begin and offsets[-1][1] >= end) == (feature["labels"] != [0, 0])


def test_neighbours_without_a_space_are_not_in_the_span(bert):
    [feature] = encode({"question": "who?", "context": "who,paris.berlin", "answers": "paris"}, bert, 64)
    assert span_text(feature) == "paris"


def test_windows_overlap_by_a_quarter_of_the_room(bert):
    max_length = 22
    room = max_length - len(bert(QUESTION)["input_ids"]) - 1
    first, second, *_ = encode(ROW, bert, max_length)
    shared = {*map(tuple, first["meta"]["offsets"])} & {*map(tuple, second["meta"]["offsets"])}
    assert len(first["meta"]["offsets"]) == room and len(shared) == room // 4 > 0


def test_segments_and_separator(bert, gpt):
    [feature] = encode(ROW, bert, 64)
    assert feature["token_type_ids"][0] == 0 and feature["token_type_ids"][-1] == 1
    [plain] = encode(ROW, gpt, 200)
    assert gpt.decode(plain["input_ids"]) == f"{QUESTION}\n{CONTEXT}"


def test_long_question_is_cut(bert):
    features = encode(ROW | {"question": "who is " * 40}, bert, 32)
    assert all(feature["truncated"] and len(feature["input_ids"]) <= 32 for feature in features)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"answers": "Rome"}, "'Rome' is not in the context"),
        ({"answers": [{"text": "Paris", "answer_start": 3}]}, "not in the context at answer_start 3"),
        ({"answers": {"text": ["Paris"], "answer_start": [1, 2]}}, "1 texts but 2 positions"),
        ({"answers": None}, "'answers' must be text"),
        ({"answers": [{"answer": "Paris"}]}, "'answers' must be text"),
        ({"context": "", "answers": ""}, "'context' gives no token"),
        ({"question": 7}, "'question' must be text"),
    ],
)
def test_bad_rows(bert, changed, message):
    with pytest.raises(ConfigError, match=message):
        encode(ROW | changed, bert, 64)


def test_no_room(bert):
    with pytest.raises(ConfigError, match="max_length 4 leaves no room"):
        encode(ROW, bert, 4)


def test_answer_with_spaces_around():
    assert find_answers([{"text": " Paris ", "start": 21}], CONTEXT) == [("Paris", 22)]


@pytest.mark.parametrize(
    ("prediction", "golds", "exact", "f1"),
    [
        ("the Eiffel Tower!", ["Eiffel tower"], 1, 1),
        ("Eiffel", ["The Eiffel Tower"], 0, 2 / 3),
        ("in new york city", ["york", "new york"], 0, 2 / 3),
        ("a cat sat on a mat", ["dog"], 0, 0),
        ("the the cat", ["cat cat"], 0, 2 / 3),
        ("", [], 1, 1),
        ("Paris", [], 0, 0),
        ("", ["Paris"], 0, 0),
        ("U.S.A.", ["usa"], 1, 1),
        ("another\nday", ["another  day"], 1, 1),
    ],
)
def test_squad_scores_by_hand(prediction, golds, exact, f1):
    assert exact_match(prediction, golds) == exact
    assert answer_f1(prediction, golds) == pytest.approx(f1)


def test_best_span_equals_all_pairs():
    generator = torch.Generator().manual_seed(0)
    for n, longest in ((1, 30), (7, 3), (40, 30), (12, 1)):
        start, end = torch.randn(2, n, generator=generator)
        pairs = [(i, j) for i in range(n) for j in range(i, min(n, i + longest))]
        best = max(pairs, key=lambda pair: start[pair[0]] + end[pair[1]])
        score, i, j = best_span(start, end, longest)
        assert (i, j) == best and score == pytest.approx((start[i] + end[j]).item())


def logits_for(feature, start, end, height, null=0.0):
    """Logits (1, T, 2) that prefer a span; the question's tokens score highest of all and must not be chosen."""
    logits = torch.full((1, len(feature["input_ids"]), 2), -5.0)
    logits[0, 1 : feature["meta"]["first"]] = 50.0
    logits[0, start, 0] = logits[0, end, 1] = height
    logits[0, 0] = null
    return logits


def test_metric_takes_the_best_window_in_any_batch(bert):
    task = tasks.build("question-answering")
    features = encode(ROW, bert, 22)
    assert len(features) > 1
    metric = task.metric()
    for feature in reversed(features):
        start, end = feature["labels"] if feature["labels"] != [0, 0] else [feature["meta"]["first"]] * 2
        height = 9.0 if feature["labels"] != [0, 0] else 4.0
        metric.update(logits_for(feature, start, end, height, 99.0), task.label_tensor([feature], 22), [feature])
    figures = metric.compute()
    assert figures["exact_match"] == figures["f1"] == 1.0  # the null score cannot win where all questions have answers
    assert math.isfinite(figures["loss"])


def test_no_answer_wins_by_the_lowest_null_score(bert):
    task = tasks.build("question-answering")
    [answered] = encode(ROW, bert, 64)
    [unanswered] = encode(ROW | {"question": "Who is John?", "answers": ""}, bert, 64)
    for null, expected in ((1.0, 0.5), (6.0, 1.0), (8.0, 0.5)):
        metric = task.metric()
        first = unanswered["meta"]["first"]
        metric.update(logits_for(answered, *answered["labels"], 7.0, null), torch.tensor([[1, 1]]), [answered])
        metric.update(logits_for(unanswered, first, first, 5.0, null), torch.tensor([[0, 0]]), [unanswered])
        assert metric.compute()["exact_match"] == expected


def official(dataset, predictions):
    """What the script evaluate-v2.0.py of SQuAD says of predictions by question, as fractions."""

    def normal(text):
        kept = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())

    def f1(gold, said):
        gold, said = normal(gold).split(), normal(said).split()
        same = sum((Counter(gold) & Counter(said)).values())
        if not gold or not said:
            return float(gold == said)
        precision, recall = same / len(said), same / len(gold)
        return 2 * precision * recall / (precision + recall) if same else 0.0

    exact, overlap, answered = {}, {}, {}
    for asked in (q for article in dataset["data"] for paragraph in article["paragraphs"] for q in paragraph["qas"]):
        name = asked["id"]
        golds = [answer["text"] for answer in asked["answers"] if normal(answer["text"])] or [""]
        exact[name] = max(float(normal(gold) == normal(predictions[name])) for gold in golds)
        overlap[name] = max(f1(gold, predictions[name]) for gold in golds)
        answered[name] = bool(asked["answers"])

    def mean(scores, kind=None):
        chosen = [score for name, score in scores.items() if kind in (None, answered[name])]
        return sum(chosen) / len(chosen)

    found = {"exact_match": mean(exact), "f1": mean(overlap)}
    if not all(answered.values()):
        found |= {"has_answer_exact_match": mean(exact, True), "has_answer_f1": mean(overlap, True)}
        assert mean(exact, False) == mean(overlap, False)
        found["no_answer_exact_match"] = mean(exact, False)
    return found


def squad(impossible):
    """A file in the layout in which SQuAD is published; several answers, one of them without a word that counts."""

    def asked(number, question, *answers):
        places = [{"text": answer, "answer_start": CONTEXT.index(answer)} for answer in answers]
        return {"id": str(number), "question": question, "answers": places, "is_impossible": not places}

    questions = [
        asked(0, "Who is the capital of France?", "Paris", "Paris is"),
        asked(1, "What is in Germany?", "Berlin", "the"),
        asked(2, "What is France?", "the capital of France"),
    ]
    questions += [asked(3, "Who is John?"), asked(4, "What is bad?")] if impossible else []
    return {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": questions}]}]}


@pytest.mark.parametrize("impossible", [True, False])
def test_figures_of_squads_own_file_are_those_of_the_official_script(bert, tmp_path, impossible):
    dataset = squad(impossible)
    (tmp_path / "dev.json").write_text(json.dumps(dataset), encoding="utf-8")
    rows = read_json(tmp_path / "dev.json", "data.files", [])
    task, seen = tasks.build("question-answering"), set()
    encoded = {row["id"]: encode(row, bert, 26) for row in rows}
    assert any(len(features) > 1 for features in encoded.values())
    for seed in range(40):
        torch.manual_seed(seed)
        metric, said = task.metric(), {}
        for row in rows:
            features = encoded[row["id"]]
            length = max(len(feature["input_ids"]) for feature in features)
            logits = 3 * torch.randn(len(features), length, 2)
            for each, feature in zip(logits, features, strict=True):
                if feature["labels"] != [0, 0] and seed % 2:
                    each[feature["labels"][0], 0] = each[feature["labels"][1], 1] = 12
                each[len(feature["input_ids"]) :] = -1e9
            metric.update(logits, task.label_tensor(features, length), features)
            found = task.joined_predictions(task.predictions(logits, features))
            said[row["id"]] = "" if impossible and found["no_answer_score"] - found["score"] > 0 else found["answer"]
        figures = task.scores(metric)
        expected = official(dataset, said)
        assert {name: figures[name] for name in figures if name != "loss"} == pytest.approx(expected)
        seen.add(figures["exact_match"])
    assert len(seen) > 2
    assert metric.trials()["exact_match"] == len(rows)


def test_equal_rows_count_apiece(bert):
    task = tasks.build("question-answering")
    [right] = encode(ROW, bert, 64)
    [wrong] = encode(ROW | {"answers": "Germany"}, bert, 64)
    metric = task.metric()
    for feature in (right, right, wrong):
        metric.update(logits_for(feature, *right["labels"], 7.0), task.label_tensor([feature], 64), [feature])
    assert metric.compute()["exact_match"] == pytest.approx(2 / 3)


def test_loss_equals_hugging_face_and_padding_changes_nothing(bert):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForQuestionAnswering(BertConfig(vocab_size=len(bert), **sizes)).eval()
    task = tasks.build("question-answering")
    features = encode(ROW, bert, 64)
    batch = collate(task, features, bert.pad_token_id)
    head = task.build_head(16, None)
    head.classifier.load_state_dict(model.qa_outputs.state_dict())
    inputs = {"attention_mask": batch.attention_mask, "token_type_ids": batch.token_type_ids}
    hidden = model.bert(batch.input_ids, **inputs).last_hidden_state
    loss, count = task.loss(head(hidden, batch.attention_mask), batch.labels)
    start, end = batch.labels.T
    expected = model(batch.input_ids, **inputs, start_positions=start, end_positions=end).loss
    torch.testing.assert_close(loss, expected)
    assert count == 1

    mask = torch.nn.functional.pad(batch.attention_mask, (0, 5))
    hidden = torch.cat([hidden, 100 * torch.randn(1, 5, 16)], 1)
    padded = head(hidden, mask)
    assert torch.isfinite(padded).all()
    torch.testing.assert_close(task.loss(padded, batch.labels)[0], loss)
    padded.sum().backward()


def test_an_answer_that_no_window_holds_is_flagged(bert):
    row = {"question": "who?", "context": "john lives in new york " * 20, "answers": "john lives in new york " * 8}
    features = encode(row | {"answers": row["answers"].strip()}, bert, 24)
    assert all(feature["truncated"] and feature["labels"] == [0, 0] for feature in features)
    assert not any(feature["truncated"] for feature in encode(row | {"answers": "john"}, bert, 24))
    assert not any(feature["truncated"] for feature in encode(row | {"answers": ""}, bert, 24))
