"""What tasks share that read a text, or a pair of texts, as a whole: rows become tokens, and a pooled state logits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from atlas_cli.errors import ConfigError
from atlas_cli.tasks import _rows
from atlas_cli.tasks._heads import PooledHead, pooled_token
from atlas_cli.tasks.contract import BaseTask, Feature, Row, count_examples


class TextTask(BaseTask):
    """Columns text, label and, where given, text_pair; one label a row. A task says what the label is."""

    fields: ClassVar[tuple[str, ...]] = ("text", "label")
    optional_fields: ClassVar[tuple[str, ...]] = ("text_pair",)
    label_fields: ClassVar[tuple[str, ...]] = ("label",)

    @abstractmethod
    def _label(self, row: Row) -> int | float | list[int]:
        """The row's label as a number, or as several.

        Raises:
            ConfigError: it is none.
        """

    @abstractmethod
    def _outputs(self) -> int:
        """Logits a text."""

    def encode(self, row: Row, tokenizer: Any, max_length: int) -> list[Feature]:
        """One feature; text beyond ``max_length`` is cut (of a pair, the longer text first) and flagged.

        Raises:
            ConfigError: a label that does not fit, or text that is missing, not a string, or gives no token.
        """
        texts = [_rows.text(row, "text")]
        if "text_pair" in row:
            texts.append(_rows.text(row, "text_pair"))
        texts = [_rows.enough(text, tokenizer, max_length, self.keep_end) for text in texts]
        encoded = tokenizer(*texts, verbose=False)
        if len(encoded["input_ids"]) <= tokenizer.num_special_tokens_to_add(pair=len(texts) > 1):
            raise ConfigError("empty text: field 'text' gives no token; drop such rows")
        truncated = len(encoded["input_ids"]) > max_length
        if truncated:
            with _rows.cutting(tokenizer, self.keep_end):
                encoded = tokenizer(*texts, truncation=True, max_length=max_length)
        return [self._feature(row, encoded["input_ids"], encoded.get("token_type_ids", ()), truncated)]

    def encode_all(self, rows: Sequence[Row], tokenizer: Any, max_length: int) -> list[list[Feature]]:
        """``encode`` of each row: whole texts are tokenized together, and those that are to be cut by themselves."""
        names = ("text", "text_pair") if rows and "text_pair" in rows[0] else ("text",)
        own = getattr(self.encode, "__func__", None) is not TextTask.encode
        alike = not own and all(("text_pair" in row) == (len(names) > 1) for row in rows)
        texts = [[_rows.text(row, name) for row in rows] for name in names] if alike else []
        if not rows or not alike or any(_rows.is_long(text, max_length) for each in texts for text in each):
            return super().encode_all(rows, tokenizer, max_length)
        encoded, fewest = tokenizer(*texts, verbose=False), tokenizer.num_special_tokens_to_add(pair=len(names) > 1)
        types = encoded.get("token_type_ids") or [()] * len(rows)
        return [
            [self._feature(row, tokens, kinds, False)]
            if fewest < len(tokens) <= max_length
            else self.encode(row, tokenizer, max_length)
            for row, tokens, kinds in zip(rows, encoded["input_ids"], types, strict=True)
        ]

    def weight(self, features: Sequence[Feature]) -> float:
        """Examples: a text as a whole has a label."""
        return float(count_examples(features))

    def _feature(self, row: Row, tokens: list[int], types: Sequence[int], truncated: bool) -> Feature:
        feature = Feature(input_ids=tokens, labels=self._label(row), truncated=truncated)
        if any(types):
            feature["token_type_ids"] = list(types)
        return feature

    def label_tensor(self, features: Sequence[Feature], length: int) -> Tensor:
        """One label a text (B,)."""
        return torch.tensor([feature["labels"] for feature in features], dtype=self.label_dtype)

    def build_head(self, hidden_size: int, lm_head: nn.Module | None) -> nn.Module:
        """Pooling and one linear layer; D * C + C parameters for C logits."""
        return PooledHead(hidden_size, self._outputs(), self.pooling)

    def reads(self, labels: Tensor, mask_BT: Tensor) -> Tensor | None:
        """What is pooled."""
        return pooled_token(self.pooling, mask_BT)
