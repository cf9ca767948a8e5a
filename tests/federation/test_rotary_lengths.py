"""Models whose rotary positions depend on the longest text of a batch: nobody's texts change anybody else's numbers."""

import pytest
import torch
from support.rounds import run_round
from support.tiny_models import _LLAMA, CONFIGS, word_tokenizer
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig

from atlas_cli.config.schema.experiment import ModelConfig
from atlas_cli.errors import ConfigError
from atlas_cli.federation.batches import batch_of
from atlas_cli.federation.parties.evaluation import TrainedModel
from atlas_cli.federation.parties.trainables import build_head
from atlas_cli.federation.prefix_setup import without_prefix
from atlas_cli.models.adapters.lora import AdapterSet
from atlas_cli.models.frozen.load import load_base
from atlas_cli.models.frozen.rotary import depends_on_length, frequencies_change_at, positions_to_write
from atlas_cli.planning import plan
from atlas_cli.wire.ledger import Ledger

TURN = 6  # tokens
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [8.0] * 4,
    "original_max_position_embeddings": TURN,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
LOCAL_AND_GLOBAL = {"full_attention": DYNAMIC, "sliding_attention": {"rope_type": "default", "rope_theta": 10.0}}


@pytest.fixture(scope="session")
def longrope(tmp_path_factory):
    """The folder of a tiny LLaMA, and rows of 2 to 16 words."""
    folder = tmp_path_factory.mktemp("longrope")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(**_LLAMA, rope_parameters=LONGROPE)).save_pretrained(folder)
    word_tokenizer(causal=True).save_pretrained(folder)
    words = "the film was very good and the city was not bad at all we saw it".split()
    rows = [f"{' '.join(words[i % 3 : 2 + i % 3 + 7 * (i % 3)])} {i},{'ab'[i % 2]}" for i in range(60)]
    (folder / "rows.csv").write_text("text,label\n" + "\n".join(rows), encoding="utf-8")
    return folder


@pytest.fixture
def made(longrope, make_federation):
    """``made(**changes)``: three clients in a federation on that model."""

    def make(**changes):
        group = {"g": {"task": "sequence-classification", "data": {"files": str(longrope / "rows.csv")}}}
        return make_federation("llama", **{"model": {"name": str(longrope)}, "task_groups": group, **changes})

    return make


def losses(federation):
    """By client, of one step, before anything is trained."""
    done = run_round(federation, list(federation.clients), 1, Ledger(), lambda *_: None)
    return {name: did.loss for name, did in done.items()}


def unsplit_losses(federation, folder):
    """By Hugging Face's own model, loaded for each client anew, on that client's batch."""
    found = {}
    for name in federation.clients:
        batch = batch_of(federation, name, 0)
        model = AutoModelForCausalLM.from_pretrained(folder).model.eval()
        hidden = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        head = federation.server.groups["g"].head
        found[name] = federation.data["g"].task.loss(head(hidden, batch.attention_mask), batch.labels)[0].item()
    return found


ONE_STEP = {"local_steps": 1, "batch_size": 2}


def test_the_length_from_which_on_frequencies_are_others():
    assert frequencies_change_at(LlamaConfig(**_LLAMA, rope_parameters=LONGROPE)) == TURN
    dynamic = LlamaConfig(**_LLAMA, rope_parameters=DYNAMIC)
    assert [
        frequencies_change_at(config) for config in (dynamic, *(CONFIGS[f]() for f in ("llama", "gpt2", "bert")))
    ] == [None] * 4
    each = {**LOCAL_AND_GLOBAL, "full_attention": LONGROPE}
    assert frequencies_change_at(Gemma3TextConfig(**_LLAMA, rope_parameters=each)) == TURN
    config = LlamaConfig(**_LLAMA, rope_parameters=LONGROPE)
    assert not depends_on_length(config, TURN) and depends_on_length(config, TURN + 1)


def test_generated_texts_end_where_frequencies_turn():
    turning, steady = (LlamaConfig(**_LLAMA, rope_parameters=rotary) for rotary in (LONGROPE, DYNAMIC))
    assert positions_to_write(turning, 64) == (TURN, "positions with the same rotary frequencies")
    assert positions_to_write(turning, 4) == (4, "positions")
    assert positions_to_write(steady, 64) == (64, "positions")


@pytest.mark.slow
def test_a_clients_loss_is_that_of_the_unsplit_model_on_its_own_batch(made, longrope, monkeypatch):
    federation = made(training=ONE_STEP)
    wanted = unsplit_losses(federation, longrope)
    found = losses(federation)
    assert found == pytest.approx(wanted, abs=1e-6)
    assert len({batch_of(federation, name, 0).input_ids.shape[1] > TURN for name in wanted}) == 2  # short and long ones
    monkeypatch.setattr(plan, "depends_on_length", lambda *_: False)
    shared = losses(made(training=ONE_STEP))
    assert max(abs(shared[name] - wanted[name]) for name in wanted) > 1e-4  # what a shared pass would say


@pytest.mark.slow
def test_a_cached_prefix_is_not_used_for_them(made, longrope):
    top = {name: {"rank": {1: 2}} for name in "abc"}
    cached = made(training=ONE_STEP, clients=top, engine={"prefix_cache": "1 MiB"})
    (said,) = without_prefix(cached.config, cached.plan)
    assert said.endswith("for a, b, c: the model's rotary positions depend on the longest text of a batch")
    assert losses(cached) == pytest.approx(unsplit_losses(made(training=ONE_STEP, clients=top), longrope), abs=1e-6)
    short = made(training={**ONE_STEP, "max_length": TURN}, clients=top, engine={"prefix_cache": "1 MiB"})
    assert without_prefix(short.config, short.plan) == []


def test_the_score_of_a_text_does_not_depend_on_the_texts_beside_it(made):
    federation = made()
    group = federation.data["g"]
    features = [*group.test, *group.train["a"], *group.train["b"]]
    assert len({len(feature["input_ids"]) > TURN for feature in features}) == 2
    head = build_head(federation.base, group.task, 0, "g", "cpu")
    model = TrainedModel(AdapterSet({}), head)
    together = federation.evaluator(group.task, features, model)["loss"]
    alone = [federation.evaluator(group.task, [feature], model)["loss"] for feature in features]
    assert together == pytest.approx(sum(alone) / len(alone), abs=1e-6)


@pytest.mark.parametrize(
    ("privacy", "key"),
    [({"examples": {"clip": 1.0, "noise_multiplier": 1.0}}, "examples"), ({"pad_lengths": 8}, "pad_lengths")],
)
def test_what_protects_a_text_by_itself_is_refused(privacy, key, made):
    with pytest.raises(ConfigError, match=f"max_length: with texts of more than {TURN} tokens .*privacy.{key}"):
        made(privacy=privacy)
    made(privacy=privacy, training={"max_length": TURN})


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**_LLAMA, rope_parameters=DYNAMIC),
        Gemma3TextConfig(**{**_LLAMA, "num_hidden_layers": 2}, head_dim=8, rope_parameters=LOCAL_AND_GLOBAL),
    ],
    ids=["one table", "two tables"],
)
def test_dynamic_frequencies_do_not_change_within_the_models_positions(config, tmp_path):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path)
    base = load_base(ModelConfig.model_validate({"name": str(tmp_path)})).model
    for tokens in (64, 3):  # the longest that a run may have, then a short one
        ids = torch.arange(tokens)[None] % 50
        assert torch.equal(base(ids).last_hidden_state, model.model(ids).last_hidden_state)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert base(torch.ones(1, 5, dtype=torch.int64)).last_hidden_state.shape == (1, 5, 32)
