"""Generates text through the split: each half keeps its blocks' keys and values; decoding is transformers' own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from atlas_cli.federation.parties.crossing import Cut
from atlas_cli.federation.parties.evaluation import attached_halves
from atlas_cli.federation.parties.party import Halves, TrainedModel
from atlas_cli.models.frozen.rotary import frequencies_change_at
from atlas_cli.models.halves.causal_model import SplitCache, SplitCausalModel
from atlas_cli.seeding import derive, seeded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from transformers.generation.streamers import BaseStreamer


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen. Without ``temperature``, ``top_k`` and ``top_p`` it is the likeliest each time.

    Attributes:
        max_new_tokens: the most tokens of a text.
        temperature: divides the logits before a token is drawn.
        top_k: draw from the so many likeliest; ``top_p``: from the likeliest that together have this probability.
        beams: search so many beams.
        seed: of the draws.
        stop: a text ends before the first of these strings.
    """

    max_new_tokens: int
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    beams: int = 1
    seed: int = 0
    stop: tuple[str, ...] = ()

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        return (self.temperature, self.top_k, self.top_p) != (None, None, None)

    def with_stops(self, strings: Sequence[str]) -> Decoding:
        """The same, with more strings before which a text ends."""
        return replace(self, stop=(*self.stop, *strings))


@dataclass(frozen=True)
class Generated:
    """A text that was generated.

    Attributes:
        text: without the tokens or the string that ended it.
        tokens: all that were generated, those included.
        ended: by an end token, by a stop string, or because ``max_new_tokens`` were generated.
        prompt_tokens: of its prompt.
    """

    text: str
    tokens: list[int]
    ended: Literal["token", "string", "length"]
    prompt_tokens: int


@dataclass(frozen=True)
class GeneratedBatch:
    """What was computed together.

    Attributes:
        rows: texts, each as often as there are beams.
        prompt_tokens: of the longest prompt, to which the others are padded.
        steps: passes through the split; the first is over the prompts, and each gives a token of every row.
    """

    texts: list[Generated]
    rows: int
    prompt_tokens: int
    steps: int


class Generator:
    """Generates with a trained model.

    Args:
        model: with ``halves``, or else ``halves`` says which blocks run where.
        ends: tokens that end a text; ``stops``: strings that end it.
        pad: the token that prompts are padded with, on the left.
        cut: what passes between the halves.
    """

    def __init__(
        self,
        model: TrainedModel,
        halves: Halves,
        tokenizer: PreTrainedTokenizerBase,
        ends: Sequence[int],
        pad: int,
        cut: Cut,
        device: torch.device,
    ) -> None:
        self.model, self.halves, self.tokenizer, self.cut, self.device = model, halves, tokenizer, cut, device
        self.ends, self.pad = list(ends), pad
        # some models compute a text otherwise where the longest of its batch is long
        self.alone = frequencies_change_at(halves.lower.config) is not None

    @torch.no_grad()
    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        batch_size: int = 1,
        streamer: BaseStreamer | None = None,
    ) -> Iterator[GeneratedBatch]:
        """The texts that follow ``prompts``, batch by batch, in their order.

        Args:
            prompts: token ids, at least one each; with ``max_new_tokens`` they do not exceed the model's positions.
            streamer: gets the tokens of a single prompt as they are chosen.
        """
        size = 1 if self.alone else batch_size
        for number, first in enumerate(range(0, len(prompts), size)):
            # the first batch draws as transformers does with this seed; others draw independently of it
            seed = decoding.seed if number == 0 else derive(decoding.seed, "generate", number)
            with seeded(seed, self.device), attached_halves(self.model, self.halves) as (lower, upper):
                model = SplitCausalModel(self.halves.upper.config, lower, upper, self.model.head, self.cut)
                batch = self._batch(model, prompts[first : first + size], decoding, streamer)
            yield batch

    def _batch(
        self,
        model: SplitCausalModel,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        streamer: BaseStreamer | None,
    ) -> GeneratedBatch:
        longest = max(map(len, prompts))
        ids, mask = (
            torch.tensor([[fill] * (longest - len(prompt)) + row(prompt) for prompt in prompts], device=self.device)
            for fill, row in ((self.pad, list), (0, lambda prompt: [1] * len(prompt)))
        )
        rows = len(prompts) * decoding.beams
        self.cut.begin(rows, longest)
        found = model.generate(
            ids,
            attention_mask=mask,
            generation_config=self._config(decoding),
            past_key_values=SplitCache(self.halves.upper.config, self.halves.cut),
            stopping_criteria=StoppingCriteriaList([_Stopped(self, decoding.stop, longest)] if decoding.stop else []),
            streamer=streamer,
        )
        texts = [
            self._text(new, decoding, len(prompt))
            for new, prompt in zip(found[:, longest:].tolist(), prompts, strict=True)
        ]
        return GeneratedBatch(texts, rows, longest, self.cut.steps)

    def _config(self, decoding: Decoding) -> GenerationConfig:
        options: dict[str, Any] = {}
        if decoding.samples:
            # top_k has a default of 50 in transformers
            options = {"do_sample": True, "top_k": decoding.top_k or 0}
            options |= {"temperature": decoding.temperature or 1.0, "top_p": decoding.top_p or 1.0}
        return GenerationConfig(
            max_new_tokens=decoding.max_new_tokens,
            num_beams=decoding.beams,
            eos_token_id=self.ends or None,
            pad_token_id=self.pad,
            **options,
        )

    def _text(self, new: list[int], decoding: Decoding, prompt_tokens: int) -> Generated:
        ended: Literal["token", "string", "length"] = "length"
        for place, token in enumerate(new):
            if token in self.ends:
                new, ended = new[: place + 1], "token"
                break
        counts = range(1, len(new) + 1) if decoding.stop else ()
        if stopped := next((count for count in counts if self.holds(new[:count], decoding.stop)), None):
            new, ended = new[:stopped], "string"
        text = self.tokenizer.decode(new[:-1] if ended == "token" else new, skip_special_tokens=True)
        places = {text.find(string) for string in decoding.stop} - {-1}
        return Generated(text[: min(places, default=None)], new, ended, prompt_tokens)

    def holds(self, tokens: Sequence[int], strings: Sequence[str]) -> bool:
        """Whether the text of ``tokens`` holds one of the strings, which may be that of a special token."""
        text = self.tokenizer.decode(tokens)
        return any(string in text for string in strings)


class _Stopped(StoppingCriteria):
    """Ends a text that holds a stop string; that of transformers does not work with every tokenizer."""

    def __init__(self, generator: Generator, strings: Sequence[str], first: int) -> None:
        self._generator, self._strings, self._first = generator, strings, first

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:
        rows = input_ids[:, self._first :].tolist()
        return torch.tensor([self._generator.holds(row, self._strings) for row in rows], device=input_ids.device)
