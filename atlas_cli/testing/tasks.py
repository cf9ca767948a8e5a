"""Tests that every task must pass, for its author to run: one line in a pytest file of theirs.

    TestRating = conformance(Task, rows=[{"text": "so good", "label": "5"}, ...], classes=["1", "2", "3", "4", "5"])

The rows are a few of the task's own, under its field names, as a data source would give them; four or more, with labels
that differ. No model is loaded: hidden states are an embedding of each token and its position, of which an example's
depend on nothing else, and the tokenizer knows the words of the rows. What fails says which promise of
``contract.BaseTask`` is not kept.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedTokenizerFast

from atlas_cli.data.collate import parts_of
from atlas_cli.planning.memory.saved_trace import traced_loss
from atlas_cli.plugins import check
from atlas_cli.tasks.contract import IGNORE, BaseTask, Feature, Row, Term, check_declared

HIDDEN = 16
LONGEST = 48  # tokens
STEPS = 200  # of training, after which figures must not be worse


def conformance(task: type[BaseTask], rows: Sequence[Row], classes: Sequence[str] = ()) -> type[Conformance]:
    """A class of tests of a task, for pytest to find under a name that begins with ``Test``.

    Args:
        task: the class ``Task`` of its file.
        rows: four or more, with the fields of the task.
        classes: class names, where the task has classes.
    """
    return type("Conformance", (Conformance,), {"task_type": task, "rows": list(rows), "classes": list(classes)})


class Conformance:
    """The tests, one promise each; ``conformance`` makes a class of them for a task."""

    task_type: type[BaseTask]
    rows: list[Row]
    classes: list[str]

    @cached_property
    def task(self) -> BaseTask:
        """The task, pooling as its model would."""
        return self.task_type(self.classes, "last" if self.task_type.causal_only else "mean")

    @cached_property
    def tokenizer(self) -> Any:
        """One that knows the rows' words."""
        return tokenizer_of(self.rows, self.task.causal_only)

    @cached_property
    def features(self) -> list[Feature]:
        """Of all rows, each numbered by its row."""
        encoded = [self.task.encode(row, self.tokenizer, LONGEST) for row in self.rows]
        for number, of_row in enumerate(encoded):
            for feature in of_row:
                feature["row"] = number
        return [feature for of_row in encoded for feature in of_row]

    @cached_property
    def states(self) -> nn.ModuleDict:
        """Hidden states by token and position, and the head, as they are before training."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            size = len(self.tokenizer)
            lm_head = nn.Linear(HIDDEN, size, bias=False).requires_grad_(False)
            head = self.task.build_head(HIDDEN, lm_head if self.task.causal_only else None)
            embeddings = {"token": nn.Embedding(size, HIDDEN), "position": nn.Embedding(2 * LONGEST, HIDDEN)}
            return nn.ModuleDict({**embeddings, "head": head})

    def hidden(self, features: Sequence[Feature], more: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states (B, T, D), mask (B, T) and labels of a batch padded by ``more`` tokens than it needs."""
        length = max(len(f["input_ids"]) for f in features) + more
        mask_BT = torch.tensor([[int(t < len(f["input_ids"])) for t in range(length)] for f in features])
        ids_BT = torch.tensor([f["input_ids"] + [0] * (length - len(f["input_ids"])) for f in features])
        hidden_BTD = self.states["token"](ids_BT) + self.states["position"](torch.arange(length))
        return hidden_BTD, mask_BT, self.task.label_tensor(features, length)

    def logits(self, features: Sequence[Feature], more: int = 0) -> tuple[Tensor, Tensor]:
        """Logits of the head, and the labels."""
        hidden_BTD, mask_BT, labels = self.hidden(features, more)
        return self.states["head"](hidden_BTD, mask_BT), labels

    @property
    def examples(self) -> list[list[Feature]]:
        """The features that may be a batch by themselves: each one, or all of a row where they belong together."""
        return [[self.features[i] for i in part] for part in parts_of(self.task, self.features)]

    def figures(self, batches: Sequence[Sequence[Feature]]) -> dict[str, float]:
        """The metric over batches."""
        metric = self.task.metric()
        with torch.no_grad():
            for batch in batches:
                metric.update(*self.logits(batch), batch)
        return self.task.scores(metric)

    def test_it_says_what_the_contract_asks(self) -> None:
        """Names, types and hooks are the contract's, and there are rows enough to try them."""
        check(self.task_type, BaseTask)
        check_declared(self.task_type)
        assert len(self.features) >= 4, "give four rows or more that become features"
        for row in self.rows:
            assert set(self.task.fields) <= row.keys(), f"a row lacks a field: {row}"
            self.task_type.check(row)
            labels = self.task_type.labels_in(row)
            assert set(labels) <= set(self.classes), f"labels_in gives what is no class: {labels}"
            assert not self.task.one_class or len(labels) == 1, f"one_class, and a row has {len(labels)} labels"

    def test_features_are_plain_and_the_same_again(self) -> None:
        """``encode`` is a function of the row; its features are JSON, as the cache of tokens keeps them."""
        side, before = self.tokenizer.truncation_side, copy.deepcopy(self.rows)
        again = [f for row in self.rows for f in self.task.encode(row, self.tokenizer, LONGEST)]
        assert [{**f, "row": g["row"]} for f, g in zip(again, self.features, strict=True)] == self.features
        assert self.rows == before and self.tokenizer.truncation_side == side, "encode changed a row or the tokenizer"
        assert json.loads(json.dumps(self.features)) == self.features, "a feature is not what it is as JSON"
        for feature in self.features:
            assert 0 < len(feature["input_ids"]) <= LONGEST, "more tokens than max_length, or none"
            assert not feature.get("truncated"), "a row that fits is marked truncated; give shorter rows if it does not"

    def test_a_long_row_is_cut_and_marked(self) -> None:
        """No feature has more tokens than ``max_length``; what lacks something is marked, whichever end is kept."""
        short = max(len(f["input_ids"]) for f in self.features) - 1
        for keep_end in (False, True):
            task = self.task_type(self.classes, self.task.pooling)
            task.keep_end = keep_end
            encoded = [task.encode(row, self.tokenizer, short) for row in self.rows]
            assert all(len(f["input_ids"]) <= short for of_row in encoded for f in of_row)
            for of_row, number in zip(encoded, range(len(encoded)), strict=True):
                whole = [f for f in self.features if f["row"] == number]
                cut = len(whole[0]["input_ids"]) > short
                assert not cut or len(of_row) != 1 or of_row[0].get("truncated"), "a row that was cut is not marked"

    def test_labels_have_the_shape_and_dtype_that_are_declared(self) -> None:
        """``label_tensor`` is what ``label_shape`` and ``label_dtype`` say, at any length; plans count its bytes."""
        for more in (0, 3):
            hidden_BTD, _, labels = self.hidden(self.features, more)
            blank = self.task.blank_labels(*hidden_BTD.shape[:2])
            assert (labels.shape, labels.dtype) == (blank.shape, blank.dtype)

    def test_padding_does_not_change_the_loss(self) -> None:
        """Nor the number that it is a mean of; logits of padding may be anything finite."""
        (mean, count), (padded, padded_count) = (self.task.loss(*self.logits(self.features, more)) for more in (0, 5))
        assert torch.isfinite(self.logits(self.features, 5)[0]).all(), "logits that are not finite"
        assert count == padded_count > 0, "the loss counts padding, or nothing"
        torch.testing.assert_close(mean, padded)

    def test_the_loss_is_a_mean_over_what_it_counts(self) -> None:
        """Times its count it is a sum over examples, whichever are in a batch: clients of any batch weigh alike."""
        mean, count = self.task.loss(*self.logits(self.features))
        singles = [self.task.loss(*self.logits(example)) for example in self.examples]
        assert count == sum(n for _, n in singles)
        total = torch.stack([each * n for each, n in singles]).sum()
        torch.testing.assert_close(mean * count, total, rtol=1e-4, atol=1e-5)

    def test_targets_and_reads_are_what_the_loss_depends_on(self) -> None:
        """Hidden states that ``reads`` leaves out have no gradient; ``targets`` alone give the same loss."""
        hidden_BTD, mask_BT, labels = self.hidden(self.features, 2)
        leaf = hidden_BTD.detach().requires_grad_()
        logits = self.states["head"](leaf, mask_BT)
        loss, count = self.task.loss(logits, labels)
        loss.backward()
        assert leaf.grad is not None and torch.isfinite(leaf.grad).all() and leaf.grad.any(), "no gradient for clients"
        read_BT, moved_BT = self.task.reads(labels, mask_BT), leaf.grad.abs().sum(-1) > 0
        assert not (moved_BT & (mask_BT == 0)).any(), "padding has a gradient"
        assert read_BT is None or not (moved_BT & ~read_BT).any(), "the loss depends on more than reads says"
        targets_BT = self.task.targets(labels)
        if targets_BT is not None:
            kept = targets_BT != IGNORE
            alone, number = self.task.loss_at(logits[kept], targets_BT[kept])
            assert number == count, "targets counts other tokens than the loss"
            torch.testing.assert_close(alone, loss)

    def test_the_head_works_on_either_side(self) -> None:
        """On the server or the client (U-shaped): copied, loaded, in bfloat16, and without memory for plans."""
        head, (hidden_BTD, mask_BT, labels) = self.states["head"], self.hidden(self.features)
        other = copy.deepcopy(head)
        other.load_state_dict(head.state_dict())
        torch.testing.assert_close(other(hidden_BTD, mask_BT), head(hidden_BTD, mask_BT))
        assert all(p.dtype == torch.float32 for p in head.parameters() if p.requires_grad), "float32 is trained"
        coarse = self.task.loss(head(hidden_BTD.bfloat16(), mask_BT), labels)[0]
        torch.testing.assert_close(
            coarse.float(), self.task.loss(head(hidden_BTD, mask_BT), labels)[0], rtol=0.1, atol=0.1
        )
        with FakeTensorMode():
            planned = self.task.build_head(HIDDEN, nn.Linear(HIDDEN, 8, bias=False))
            shape = mask_BT.shape
            logits = planned(torch.empty(*shape, HIDDEN), torch.ones(shape, dtype=torch.int64))
            traced_loss(self.task, logits, *shape)

    def test_figures_are_the_same_in_one_or_many_batches(self) -> None:
        """And each of them is a number, and has a direction."""
        whole, single = self.figures([self.features]), self.figures(self.examples)
        assert whole.keys() == single.keys() <= self.task.better.keys() and self.task.primary_metric in whole
        for name, value in whole.items():
            assert isinstance(value, float) and not math.isnan(value), f"{name} is {value!r}"
            assert math.isclose(value, single[name], rel_tol=1e-4, abs_tol=1e-6), f"{name} depends on batches"

    def test_training_makes_figures_better_in_their_direction(self) -> None:
        """A direction that is declared the wrong way round would call the worst round the best."""
        states, before = copy.deepcopy(self.states), self.figures([self.features])
        optimizer = torch.optim.Adam([p for p in self.states.parameters() if p.requires_grad], lr=0.03)
        try:
            for _ in range(STEPS):
                optimizer.zero_grad()
                self.task.loss(*self.logits(self.features))[0].backward()
                optimizer.step()
            after = self.figures([self.features])
        finally:
            self.states = states
        for name, value in after.items():
            gain = value - before[name] if self.task.better[name] == "higher" else before[name] - value
            assert gain >= -1e-6, (
                f"{name} went from {before[name]:g} to {value:g}, and {self.task.better[name]} is better"
            )

    def test_weights_add_up(self) -> None:
        """A client weighs as much as its parts, and more than nothing."""
        middle = len(self.rows) // 2
        parts = [[f for f in self.features if (f["row"] < middle) == first] for first in (True, False)]
        weights = [self.task.weight(part) for part in parts]
        assert min(weights) > 0 and math.isclose(sum(weights), self.task.weight(self.features))

    def test_predictions_have_the_names_that_are_declared(self) -> None:
        """A row a feature, of plain values, the same in any batch; a row an example, once windows are joined."""
        with torch.no_grad():
            whole = self.task.predictions(self.logits(self.features, 4)[0], self.features)
            single = [p for f in self.features for p in self.task.predictions(self.logits([f])[0], [f])]
        assert len(whole) == len(self.features), "not one prediction a feature"
        for found, alone in zip(whole, single, strict=True):
            assert tuple(found) == tuple(self.task.prediction_fields), f"names are {', '.join(found)}"
            json.dumps(found, allow_nan=False)
            for a, b in zip(numbers_in(found), numbers_in(alone), strict=True):
                assert math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-5), "a prediction depends on its batch"
        for row in {f["row"] for f in self.features}:
            windows = [p for p, f in zip(whole, self.features, strict=True) if f["row"] == row]
            joined = self.task.joined_predictions(windows)
            assert tuple(joined) == tuple(self.task.prediction_fields)

    def test_terms_of_examples_add_up_to_the_figures(self) -> None:
        """Where a metric gives terms, of each example alone, their sums over all examples give its figure."""
        whole, sums = self.task.metric(), dict[str, list[Term]]()
        with torch.no_grad():
            whole.update(*self.logits(self.features), self.features)
            for row in dict.fromkeys(f["row"] for f in self.features):
                alone, windows = self.task.metric(), [f for f in self.features if f["row"] == row]
                alone.update(*self.logits(windows), windows)
                for name, term in alone.terms(whole).items():
                    sums.setdefault(name, []).append(term)
        after = {"exp": math.exp, "sqrt": math.sqrt, None: float}
        figures = self.task.scores(whole)
        for name, terms in sums.items():
            found = after[terms[0].then](sum(t.value for t in terms) / max(sum(t.weight for t in terms), 1e-9))
            assert math.isclose(found, figures[name], rel_tol=1e-4, abs_tol=1e-6), f"{name}: terms give {found:g}"

    def test_predictions_do_not_depend_on_labels(self) -> None:
        """Rows without ``label_fields`` get the same predictions, once ``with_blank_labels`` has filled these."""
        bare = [{k: v for k, v in row.items() if k not in self.task.label_fields} for row in self.rows]
        for row, without in zip(self.rows, bare, strict=True):
            both = [
                self.task.encode(each, self.tokenizer, LONGEST)
                for each in ({**without, **row}, self.task.with_blank_labels(without))
            ]
            with torch.no_grad():
                found = [self.task.predictions(self.logits(features)[0], features) for features in both]
            assert found[0] == found[1], "a prediction depends on the label of its row"
            written = self.task.placed_prediction(self.task.joined_predictions(found[1]), without)
            assert set(self.task.prediction_fields) <= written.keys()

    def test_labels_can_be_shown(self) -> None:
        """In one line each, for ``atlas data``."""
        shown = [self.task.label_text(feature) for feature in self.features]
        assert all(isinstance(text, str) and "\n" not in text for text in (*shown, self.task.label_summary(self.rows)))


def numbers_in(value: Any) -> Iterator[float]:
    """All numbers of a prediction, in order."""
    if isinstance(value, int | float):
        yield float(value)
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(each)


def tokenizer_of(rows: Sequence[Row], causal: bool) -> Any:
    """A tokenizer of the words and signs of the rows: with [CLS] and [SEP], or an end token where ``causal``."""
    found = dict.fromkeys(word for row in rows for word in re.findall(r"\w+|[^\w\s]", " ".join(texts_in(dict(row)))))
    special = ["[PAD]", "[UNK]", *(["<end>"] if causal else ["[CLS]", "[SEP]"])]
    words = {word: i for i, word in enumerate(dict.fromkeys([*special, *found]))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if causal:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="<end>")
    ends = [("[CLS]", words["[CLS]"]), ("[SEP]", words["[SEP]"])]
    template = {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B:1 [SEP]:1"}
    tokenizer.post_processor = processors.TemplateProcessing(**template, special_tokens=ends)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names)


def texts_in(value: Any) -> Iterator[str]:
    """All texts of a row."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts_in(each)
