"""Text generated through the split is, token for token, what the merged model's stock ``generate`` gives."""

import pytest
import torch
from safetensors.torch import save_file
from support.slow import slow_but
from support.tiny_models import CAUSAL, VARIANTS, VOCABULARY, tiny_model, word_tokenizer
from transformers import GenerationConfig

from atlas_cli import tasks
from atlas_cli.federation.parties.crossing import Cut
from atlas_cli.federation.parties.generation import Decoding, Generator
from atlas_cli.federation.parties.party import Halves, TrainedModel
from atlas_cli.models.adapters.lora import AdapterSet, build_adapters
from atlas_cli.models.block_paths import layer_of
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen.cast import base_in_format
from atlas_cli.models.frozen.load import as_base
from atlas_cli.models.frozen.row_embedding import TableFile, by_rows, row_embeddings
from atlas_cli.models.frozen.weight_format import WeightFormat
from atlas_cli.wire.ledger import Ledger

END, PAD, NEW, LAYERS = 4, 0, 8, 4
CPU = torch.device("cpu")
PROMPTS = [
    torch.randint(5, VOCABULARY, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    for length in (7, 3, 10)
]


def strong(family):
    """A tiny model whose logits are far apart, so that texts differ and none hangs on a rounding."""
    model = tiny_model(family).requires_grad_(False)
    factor = 4 if family.startswith(("gemma", "falcon")) else 8  # or their embeddings would drown all else
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(factor)
    return model


def trained(family):
    """A base with adapters and a change of it on every layer, and the stock model with both merged into its weights."""
    whole = strong(family)
    base = as_base(whole, family_of(whole.config.model_type), family, "random")
    merged = strong(family)
    draw = torch.Generator().manual_seed(1)
    linear = [
        path
        for path, _ in base.model.named_modules()
        if path.startswith(f"{base.family.blocks}.") and path.endswith(base.family.targets)
    ]
    adapters = build_adapters(base.model, dict.fromkeys(linear, 2), alpha=4)
    frozen = {}
    with torch.no_grad():
        for path, adapter in adapters.adapters.items():
            adapter.lora_B.copy_(torch.randn(adapter.lora_B.shape, generator=draw))
            A, B = (
                torch.randn(shape, generator=draw) / 4
                for shape in ((1, adapter.lora_A.shape[1]), (len(adapter.lora_B), 1))
            )
            frozen[path] = [(A, B)]
            change = adapter.scaling * adapter.lora_B @ adapter.lora_A + B @ A
            weight = merged.base_model.get_submodule(path).weight
            weight += change.t() if weight.shape != change.shape or family == "gpt2" else change
    head = tasks.build("causal-lm").build_head(base.hidden_size, base.lm_head)
    return base, TrainedModel(AdapterSet(adapters.adapters, frozen), head), merged


def generator_of(base, model, cut, tokenizer=None, lower=None, **options):
    halves = Halves(lower or base, base, cut)
    crossing = Cut((halves.lower.dtype, base.dtype), base.hidden_size, **options)
    return Generator(model, halves, tokenizer or word_tokenizer(True), [END], PAD, crossing, CPU)


def stock(merged, prompts, **options):
    longest = max(map(len, prompts))
    ids, mask = (
        torch.tensor([[fill] * (longest - len(p)) + row(p) for p in prompts])
        for fill, row in ((PAD, list), (0, lambda p: [1] * len(p)))
    )
    config = GenerationConfig(max_new_tokens=NEW, eos_token_id=END, pad_token_id=PAD, **options)
    return merged.generate(ids, attention_mask=mask, generation_config=config)[:, longest:].tolist()


def until_end(tokens):
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


@pytest.mark.parametrize("family", slow_but([*CAUSAL, *VARIANTS], "gpt2", "llama"))
def test_split_generation_is_the_merged_models(family):
    base, model, merged = trained(family)
    assert any(layer_of(path, base.family) == LAYERS - 1 for path in model.adapters.adapters)
    for beams in (1, 2):
        expected = [until_end(tokens) for tokens in stock(merged, PROMPTS, num_beams=beams)]
        for cut in (1, 2, LAYERS):  # the last: all blocks at the client
            (batch,) = generator_of(base, model, cut)(PROMPTS, Decoding(NEW, beams=beams), 3)
            assert [text.tokens for text in batch.texts] == expected, f"cut {cut}, {beams} beams"
    assert len({tuple(tokens) for tokens in expected}) == 3
    assert expected[0] != until_end(stock(strong(family), PROMPTS[:1])[0])  # adapters matter


def test_rows_of_tokens_that_were_generated_are_read_when_they_come(tmp_path):
    base, model, _ = trained("gpt2")
    save_file({"t": base.model.wte.weight.detach().clone()}, tmp_path / "t.safetensors")
    known = torch.tensor(sorted({PAD, *PROMPTS[0]}))
    rows = by_rows(base, known, TableFile.at(tmp_path / "t.safetensors", "t", torch.float32))
    table, ours = (next(iter(generator_of(base, model, 2, lower=at)(PROMPTS, Decoding(NEW), 3))) for at in (base, rows))
    assert [text.tokens for text in ours.texts] == [text.tokens for text in table.texts]
    new = {token for text in ours.texts for token in text.tokens}
    (embedding,) = row_embeddings(rows.model)
    assert new - set(known.tolist()) and embedding.read >= len(new - set(known.tolist()))
    assert torch.equal(embedding.tokens, known)  # none is kept


@pytest.mark.slow
def test_draws_are_those_of_transformers_with_the_seed():
    base, model, merged = trained("gpt2")
    generator = generator_of(base, model, 2)
    before = torch.random.get_rng_state()
    for options in ({"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.9}, {"temperature": 2.0, "top_k": 9, "top_p": 0.8}):
        (batch,) = generator(PROMPTS, Decoding(NEW, seed=3, **options), 3)
        torch.manual_seed(3)
        expected = stock(merged, PROMPTS, do_sample=True, **{"top_k": 0, **options})
        assert [text.tokens for text in batch.texts] == [until_end(tokens) for tokens in expected]
        torch.random.set_rng_state(before)
    alone = [batch.texts[0].tokens for batch in generator(PROMPTS, Decoding(NEW, seed=3, temperature=0.7))]
    other = [batch.texts[0].tokens for batch in generator(PROMPTS, Decoding(NEW, seed=4, temperature=0.7))]
    assert alone != other
    assert torch.equal(before, torch.random.get_rng_state())  # what draws beside it is not moved


def test_a_text_ends_before_a_stop_string():
    base, model, _ = trained("llama")
    tokenizer = word_tokenizer(True)
    generator = generator_of(base, model, 2, tokenizer)
    (free,) = generator(PROMPTS, Decoding(NEW), 3)
    words = free.texts[2].text.split()
    stop = words[2]
    assert stop not in words[:2]
    (batch,) = generator(PROMPTS, Decoding(NEW, stop=(stop,)), 3)
    found = batch.texts[2]
    assert (found.text.split(), found.ended, len(found.tokens)) == (words[:2], "string", 3)
    assert [text.ended for text in free.texts].count("length") >= 1
    assert {text.ended for text in free.texts} <= {"length", "token"}


@pytest.mark.parametrize("at_client", [False, True])
@pytest.mark.parametrize("beams", [1, 2])
def test_bytes_are_those_of_the_closed_form(at_client, beams):
    base, model, _ = trained("gpt2")
    lower = base_in_format(base, WeightFormat("bfloat16"), 2)
    ledger = Ledger()
    generator = generator_of(
        base, model, 2, lower=lower, client="a", head_at_client=at_client, beams=beams, ledger=ledger
    )
    (batch,) = generator(PROMPTS, Decoding(NEW, beams=beams), 3)
    assert ledger.mismatches() == []
    rows, steps, D = 3 * beams, batch.steps, 32
    assert (batch.rows, batch.prompt_tokens, steps) == (
        rows,
        10,
        max(len(t.tokens) for t in batch.texts) if beams == 1 else steps,
    )
    payloads = {(kind, way): (e.messages, e.payload_bytes) for (_, kind, way), e in ledger.entries.items()}
    expected = {("activations", "up"): (steps, rows * (10 * (2 * D + 1) + (steps - 1) * 2 * D))}
    if at_client:
        expected["features", "down"] = (steps, steps * rows * 4 * D)
        if beams > 1:
            expected["beams", "up"] = (steps - 1, (steps - 1) * rows * 8)
    else:
        expected["tokens", "down"] = (steps, steps * rows * 8 * (1 if beams == 1 else 2))
    assert payloads == expected


def test_what_is_sent_instead_of_activations_reaches_the_server():
    base, model, _ = trained("qwen3")
    seen = []

    def zeros(activations, mask, number):
        seen.append((tuple(mask.shape), int(mask.sum()), number))
        return torch.zeros_like(activations)

    (plain,) = generator_of(base, model, 2)(PROMPTS, Decoding(2), 3)
    (batch,) = generator_of(base, model, 2, sent=zeros)(PROMPTS, Decoding(2), 3)
    assert seen == [((3, 10), 20, 0), ((3, 1), 3, 1)]
    assert [t.tokens for t in batch.texts] != [t.tokens for t in plain.texts]
