"""Scores the text that a model generates for examples of a group's test part, beside their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atlas_cli.config.schema.evaluation import GenerateConfig
from atlas_cli.data.partitions.holdout import sample
from atlas_cli.data.prepare import PreparedGroup
from atlas_cli.errors import ConfigError
from atlas_cli.federation.parties.crossing import Cut
from atlas_cli.federation.parties.evaluation import Evaluator
from atlas_cli.federation.parties.party import TrainedModel
from atlas_cli.seeding import numpy_generator
from atlas_cli.tasks._generated import text_scores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from atlas_cli.federation.parties.generation import Decoding


@dataclass(frozen=True)
class GeneratedText:
    """The examples of a group for which text is generated, the same at each evaluation.

    Attributes:
        rule: the config's.
        prompts: tokens; ``references``: the text that should follow each.
        ends: tokens that end a text; ``decoding``: how they are chosen.
    """

    rule: GenerateConfig
    tokenizer: PreTrainedTokenizerBase
    prompts: Sequence[Sequence[int]]
    references: Sequence[str]
    ends: Sequence[int]
    decoding: Decoding

    @classmethod
    def of(
        cls, rule: GenerateConfig, group: PreparedGroup, tokenizer: PreTrainedTokenizerBase, seed: int
    ) -> GeneratedText:
        """A seeded sample of the test examples that the group's model is scored on.

        Raises:
            ConfigError: no test example has a reference and a prompt within ``training.max_length``.
        """
        from atlas_cli.federation.parties.generation import Decoding  # takes long, and few runs generate

        task, rows = group.task, group.data.test
        found = []
        for number in dict.fromkeys(feature["row"] for feature in group.test):
            reference, prompt = task.reference(rows[number]), task.prompt(rows[number], tokenizer)
            if reference is not None and len(prompt) <= group.max_length:
                found.append((prompt, reference))
        if not found:
            raise ConfigError(
                f"no test example of task group {group.data.name} has an answer, and a prompt of at most"
                f" {group.max_length} tokens; raise training.max_length",
                key="evaluation.generate",
            )
        chosen = sample(found, rule.examples, numpy_generator(seed, "generate", group.data.name))
        chosen.sort(key=lambda example: len(example[0]))  # batches of like lengths have little padding
        tokens, strings = task.ends(tokenizer)
        decoding = Decoding(rule.max_new_tokens).with_stops(strings)
        prompts, references = zip(*chosen, strict=True)
        return cls(rule, tokenizer, prompts, references, tokens, decoding)

    def scores(self, model: TrainedModel, evaluator: Evaluator) -> dict[str, float]:
        """The figures of what a model generates, token by likeliest token, with what the evaluator sends at the cut."""
        from atlas_cli.federation.parties.generation import Generator

        halves = model.halves or evaluator.halves
        cut = Cut((halves.lower.dtype, halves.upper.dtype), halves.upper.hidden_size, sent=evaluator.sent_of(model))
        generator = Generator(model, halves, self.tokenizer, self.ends, evaluator.pad, cut, evaluator.device)
        batches = generator(self.prompts, self.decoding, evaluator.batch_size)
        texts = [text.text for batch in batches for text in batch.texts]
        return text_scores(texts, self.references, self.rule.metrics)
