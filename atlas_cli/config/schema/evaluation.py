"""The parts of the config that say when models are scored, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from atlas_cli.config.schema.section import Section


class GenerateConfig(Section):
    """Text is generated for test examples of tasks `instruction` and `chat`, token by likeliest token, and compared
    with theirs."""

    max_new_tokens: int = Field(
        64, ge=1, description="The most tokens of a text.", json_schema_extra={"unit": "tokens"}
    )
    metrics: list[Literal["rouge", "bleu", "chrf", "exact_match"]] = Field(
        ["rouge", "bleu", "chrf", "exact_match"],
        min_length=1,
        description="What texts are compared by: ROUGE (`rouge1`, `rouge2`, `rougeL`; rouge-score), BLEU and chrF "
        "(sacrebleu), and the share of texts that are the reference. All are fractions from 0 to 1. All but the last "
        "need the extra `text`.",
        examples=[["rouge", "exact_match"]],
    )
    examples: int = Field(
        100,
        ge=1,
        description="Use at most this many test examples of each task group, a seeded sample, the same each time.",
        json_schema_extra={"unit": "examples"},
    )


class EvaluationConfig(Section):
    """Evaluation on the held-out parts, in rounds 0, every, 2 every, ..., and the last."""

    every: int = Field(1, ge=1, description="Score every this many rounds.", json_schema_extra={"unit": "rounds"})
    batch_size: int = Field(
        32,
        ge=1,
        description="The most examples of a pass; on a CPU a pass has at most 512 tokens, too.",
        json_schema_extra={"unit": "examples"},
    )
    generate: GenerateConfig | None = Field(
        None, description="Score generated text, too; without this section none is generated."
    )
