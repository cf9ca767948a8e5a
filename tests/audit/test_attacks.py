"""Attacks find what is there, and nothing where there is nothing."""

import hashlib
import itertools
import json
import random
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from support.tiny_models import tiny_model

from atlas_cli.audit.attack_all import audit
from atlas_cli.audit.attacks import (
    _forward_match,
    attack_of,
    bisr,
    decoder_inverter,
    length_from_gradients,
    membership,
    mlp_inverter,
    ridge_inverter,
)
from atlas_cli.audit.attacks._recovery import nearest
from atlas_cli.audit.attacks.contract import BaseAttack
from atlas_cli.audit.evidence import Evidence, Tokens, token_vectors
from atlas_cli.audit.figures import Inapplicable
from atlas_cli.audit.update_norms import update_norms
from atlas_cli.cli import main
from atlas_cli.models.families import family_of
from atlas_cli.models.frozen.load import as_base
from atlas_cli.testing import attacks as conformance
from atlas_cli.wire.messages import Activations, AdapterUpdate, Delivery

RECORDED = {"audit": {"record": {"rounds": [1]}}, "training": {"rounds": 1, "local_steps": 4}}
RECOVERY = ("nearest-embedding", "ridge-inverter", "mlp-inverter", "decoder-inverter", "bisr")


@pytest.fixture(scope="module")
def evidence(trained):
    return Evidence.of_run(trained(**RECORDED))


@pytest.mark.slow
def test_truth_belongs_to_the_messages(evidence):
    for step in evidence.steps:
        sent = step.read(Activations)
        assert torch.equal(sent.attention_mask, step.batch.attention_mask.bool())
        assert torch.equal(sent.labels, step.batch.labels)
    assert len(evidence.steps) == 3 * 4


def test_what_the_attacker_makes_is_what_a_client_sends(evidence):
    first = evidence.steps[0]
    made = evidence.attacker_material(first.client, 1, first.batch.features)
    seen = evidence.tokens(first)
    assert torch.equal(made.ids, seen.ids)
    torch.testing.assert_close(made.activations, seen.activations)


@pytest.mark.slow
def test_random_activations_stay_at_chance(evidence, monkeypatch):
    monkeypatch.setattr(_forward_match, "STEPS", 2)  # whatever it moves to makes something else
    noisy = replace(evidence)
    noisy.__dict__["steps"] = evidence.steps
    generator = torch.Generator().manual_seed(0)

    def tokens(step, first_text=0):
        real = Evidence.tokens(evidence, step, first_text)
        return replace(real, activations=torch.randn(real.activations.shape, generator=generator))

    noisy.tokens = tokens
    for name in RECOVERY:
        figure = attack_of(name).attack(noisy)
        # an attacker may learn what is common in other text, so no more than the floor
        assert figure.low <= max(figure.chance, figure.floor) + 0.05, name
        assert figure.value < 0.2


@pytest.mark.parametrize("name", RECOVERY)
def test_tokens_of_an_undefended_tiny_model_are_recovered(evidence, name, monkeypatch):
    monkeypatch.setattr(bisr, "TEXTS", 20)
    monkeypatch.setattr(_forward_match, "STEPS", 5)
    figure = attack_of(name).attack(evidence)
    assert figure.low > figure.floor
    assert figure.low <= figure.value <= figure.high
    low, high = figure.rouge_l[1:]
    assert (
        figure.value - 0.05 < figure.rouge_l[0] <= 1 and low <= figure.rouge_l[0] <= high and "ROUGE-L" in figure.note
    )
    texts = 20 if name == "bisr" else sum(step.batch.n_examples for step in evidence.steps)
    assert (figure.best, figure.examples, figure.channel) == (1.0, texts, "activations")


@pytest.mark.slow
@pytest.mark.parametrize("module", [bisr, decoder_inverter])
def test_readers_of_texts_find_what_is_in_the_activation_of_another_token(module):
    """Each activation is the embedding of the token after it; ridge regression, which sees one at a time, is lost."""
    draw = torch.Generator().manual_seed(0)
    embedding = torch.randn(12, 8, generator=draw)

    def texts(n):
        ids = torch.randint(12, (n, 5), generator=draw)
        return Tokens(embedding[ids.roll(-1, 1)].flatten(0, 1), ids.flatten(), torch.arange(n).repeat_interleave(5))

    material, seen = texts(100), texts(40)
    found = nearest(module.fit(material, embedding).vectors(seen.hidden, seen.texts), embedding)
    alone = nearest(ridge_inverter.fit(material, embedding)(seen.hidden), embedding)
    assert (found == seen.ids).double().mean() > 0.4 > 0.25 > (alone == seen.ids).double().mean()


@pytest.mark.parametrize("texts", [1, 4])
@pytest.mark.parametrize("module", [bisr, decoder_inverter, ridge_inverter])
def test_an_attacker_learns_of_few_texts(module, texts):
    """Fewer than five have no fifth: one is kept back to choose by, and one alone is learnt by heart."""
    embedding = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    ids, of = torch.arange(12).repeat(texts), torch.arange(texts).repeat_interleave(12)
    material = Tokens(embedding.flip(1)[ids], ids, of)  # what nearest embeddings cannot tell
    invert = module.fit(material, embedding)
    found = nearest(
        invert.vectors(material.hidden, of) if hasattr(invert, "vectors") else invert(material.hidden), embedding
    )
    assert (found == ids).double().mean() > 0.9


@pytest.mark.parametrize("module", [bisr, decoder_inverter, ridge_inverter, mlp_inverter])
def test_an_attacker_of_one_token_fails_at_nothing(module):
    material = Tokens(torch.ones(1, 8), torch.tensor([3]), torch.tensor([0]))
    module.fit(material, torch.eye(8))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bisr", "decoder-inverter"])
def test_readers_of_texts_know_of_noise_and_find_the_same_again(trained, name, monkeypatch):
    monkeypatch.setattr(bisr, "TEXTS", 20)
    monkeypatch.setattr(_forward_match, "STEPS", 5)
    noisy = {"privacy": {"activations": {"clip": 1.0, "noise_multiplier": 0.2}}}
    found = conformance.check(name, trained(**RECORDED, **noisy).path)
    assert found.value > found.floor


@pytest.mark.slow
def test_a_match_finds_what_the_client_read_from_a_guess_that_is_wrong_in_places(evidence):
    """And leaves a guess alone of which nothing else makes what was sent."""
    step = evidence.steps[0]
    seen, matcher = evidence.tokens(step), _forward_match.Matcher(evidence.party(step.client, step.round))
    assert torch.equal(matcher.best(seen.hidden, seen.texts, [seen.ids]), seen.ids)
    wrong = torch.where(torch.arange(len(seen.ids)) % 4 == 1, seen.ids.roll(1), seen.ids)
    found = matcher.best(seen.hidden, seen.texts, [seen.ids.roll(2), wrong])
    assert (found == seen.ids).double().mean() > 0.9 > (wrong == seen.ids).double().mean()


@pytest.mark.slow
def test_gradients_of_features_tell_the_text_whose_labels_stay(trained):
    """Of a language model: without the first token of a text, which is no label."""
    changes = {**RECORDED, "training": {**RECORDED["training"], "labels": "client"}}
    evidence = Evidence.of_run(trained(task="causal-lm", **changes))
    step = evidence.steps[0]
    seen = evidence.tokens(step)
    vectors = torch.randn(len(seen.ids), evidence.embedding.shape[1], generator=torch.Generator().manual_seed(0))
    told = bisr.labels_told(evidence, step, vectors, seen.texts)
    first = torch.cat([torch.tensor([True]), seen.texts[1:] != seen.texts[:-1]])
    assert (told[first] == -1).all()
    assert (told == seen.ids)[~first].double().mean() > 0.9


def test_gradients_of_other_tasks_tell_no_text(evidence):
    step = evidence.steps[0]
    seen = evidence.tokens(step)
    assert bisr.labels_told(evidence, step, seen.hidden, seen.texts) is None


def test_embeddings_are_compared_in_the_width_of_the_blocks():
    """ELECTRA has a layer from the one to the other, which is part of the frozen model that all know."""
    base = as_base(tiny_model("electra"), family_of("electra"), "electra", "random")
    vectors = token_vectors(base)
    assert vectors.shape == (base.config.vocab_size, base.hidden_size)
    rows = base.model.get_input_embeddings().weight[7:9]
    assert torch.allclose(vectors[7:9], base.model.embeddings_project(rows), atol=1e-6)
    bert = as_base(tiny_model("bert"), family_of("bert"), "bert", "random")
    assert torch.equal(token_vectors(bert), bert.model.get_input_embeddings().weight)


@pytest.mark.slow
def test_a_run_whose_clients_were_put_away_is_attacked_alike(trained, evidence):
    offloaded = Evidence.of_run(trained(**RECORDED, engine={"offload": "1 KiB"}))
    found, expected = (audit(each, ["nearest-embedding", "membership"]) for each in (offloaded, evidence))
    assert found["attacks"] and all(found[key] == expected[key] for key in ("attacks", "not_measured"))


@pytest.mark.slow
def test_changes_are_put_together_as_the_server_did(trained):
    """Texts come again in round 2; a client was dropped from round 1, and both ends forgot what it had sent in it."""
    wire = {"activations": {"codec": "delta", "options": {"first": "int8"}}}
    more = {"training": {"rounds": 2, "local_steps": 6}, "faults": {"crash_at": {"b": {"round": 1, "step": 4}}}}
    found = Evidence.of_run(trained(audit={"record": {"rounds": [1, 2]}}, wire=wire, **more), most=1000)
    seen = set()
    for step in found.chosen_steps():
        tokens = found.tokens(step)
        seen.add((step.client, step.round))
        if step.number == 0:  # with the adapters that were delivered
            exact = found.party(step.client, step.round).forward(step.batch.inputs(), step.round, 0, None)
            sent = exact.activations[step.batch.attention_mask.bool()]
            assert (tokens.activations - sent).abs().max() < 0.1 * sent.abs().max()
    assert seen == {(client, number) for client in found.federation.clients for number in (1, 2)}
    figure = attack_of("nearest-embedding").attack(found)
    assert figure.low > figure.floor
    found.__dict__["_recorded_rounds"] = {2}
    with pytest.raises(Inapplicable, match=r"those of round 1 were not recorded; set audit\.record\.rounds to all"):
        found.tokens(found.steps[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "holds"),
    [
        ({"wire": {"activations": {"codec": "int8"}}}, lambda plain, here: here == pytest.approx(plain, abs=0.05)),
        (
            {"privacy": {"activations": {"clip": 1.0, "noise_multiplier": 10.0}}},
            lambda plain, here: here < 0.5 * plain,
        ),
    ],
)
def test_attacks_are_made_with_the_defence_that_is_in_force(trained, evidence, asked, holds):
    """And on what the server decoded."""
    defended = Evidence.of_run(trained(**RECORDED, **asked))
    step = defended.steps[0]
    made, seen = defended.attacker_material(step.client, 1, step.batch.features), defended.tokens(step)
    assert torch.equal(made.ids, seen.ids)
    if "privacy" in asked:
        assert not torch.allclose(made.hidden, seen.hidden, atol=1)  # noise of its own, as large
        assert float(made.hidden.std() / seen.hidden.std()) == pytest.approx(1, abs=0.1)
    else:
        torch.testing.assert_close(made.hidden, seen.hidden)
    attack = attack_of("ridge-inverter").attack
    assert holds(attack(evidence).value, attack(defended).value)


@pytest.mark.slow
def test_randomised_labels_are_scored_against_the_true_ones(trained):
    training = {**RECORDED["training"], "labels": "client"}
    privacy = {"labels": {"epsilon": 0.01}}
    evidence = Evidence.of_run(trained(**{**RECORDED, "training": training}, privacy=privacy))
    figure = attack_of("label-from-gradients").attack(evidence)
    assert figure.low <= 0.6 and figure.value < 0.75  # of two classes, drawn all but at random


@pytest.mark.slow
def test_membership_is_judged_with_the_true_labels_of_members(trained, monkeypatch):
    noisy = {"partition": {"local_test": 0.4}, "privacy": {"labels": {"epsilon": 0.01}}}
    evidence, judged = Evidence.of_run(trained(**RECORDED, **noisy)), []
    monkeypatch.setattr(
        membership, "losses_of", lambda _, task, texts, model: judged.extend(texts) or [0.0] * len(texts)
    )
    attack_of("membership").attack(evidence)
    group = evidence.true_labels.data["g"]
    true = [text for part in (group.train, group.local_test) for texts in part.values() for text in texts]
    assert len(judged) > 40 and all(text in true for text in judged)


def test_lengths_are_in_the_rows_that_are_zero(evidence):
    figure = attack_of("length-from-gradients").attack(evidence)
    assert figure.value == 1.0 and figure.floor < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sequence-classification", "token-classification", "causal-lm"])
def test_labels_that_stay_on_the_client_are_in_its_gradients(trained, task):
    changes = {**RECORDED, "training": {**RECORDED["training"], "labels": "client"}}
    evidence = Evidence.of_run(trained(task=task, **changes))
    figure = attack_of("label-from-gradients").attack(evidence)
    assert figure.low > figure.floor and figure.value > 0.9


def test_labels_that_are_sent_are_not_inferred(evidence):
    with pytest.raises(Inapplicable, match="in the clear"):
        attack_of("label-from-gradients").attack(evidence)


def test_task_groups_show_in_fingerprints(evidence, tmp_path):
    messages, groups = [], {}
    template = evidence.messages[0]
    for i in range(24):
        path = tmp_path / f"{i}.safetensors"
        value = torch.full((8,), 1.0)
        value[i % 2] += 3
        save_file({"fingerprint": value + 0.01 * i}, path)
        groups[f"c{i}"] = f"g{i % 2}"
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        messages.append(replace(template, client=f"c{i}", kind="fingerprint", direction="up", path=path, sha256=sha256))

    class Federation:
        group_of = groups.__getitem__

    fake = replace(evidence, federation=Federation(), messages=messages)
    figure = attack_of("task-from-fingerprints").attack(fake)
    assert (figure.value, figure.chance, figure.examples) == (1.0, 0.5, 24)
    with pytest.raises(Inapplicable, match="too few"):
        attack_of("task-from-fingerprints").attack(replace(fake, messages=messages[:10]))


@pytest.mark.slow
def test_membership_of_texts_that_were_learnt_by_heart(trained, tmp_path_factory):
    draw, words = random.Random(0), "the a film movie game phone price city river was is and very not".split()
    rows = [f"{' '.join(draw.choices(words, k=8))},{draw.choice(['pos', 'neg'])}" for _ in range(160)]
    path = tmp_path_factory.mktemp("noise") / "noise.csv"
    path.write_text(
        "\n".join(["text,label", *rows]) + "\n", encoding="utf-8"
    )  # labels that nothing but memory can tell
    changes = {
        "task_groups": {"g": {"data": {"files": str(path)}}},
        "partition": {"local_test": 0.5},
        "server": {"rank": 8},
        "audit": {"record": {"rounds": [1]}},
    }
    rate = {"client_optimizer": {"lr": 0.02}, "server_optimizer": {"lr": 0.02}, "batch_size": 16}
    attack = attack_of("membership").attack
    before = attack(Evidence.of_run(trained(**changes, training={"rounds": 1, "local_steps": 1})))
    after = attack(Evidence.of_run(trained(**changes, training={"rounds": 3, "local_steps": 40, **rate})))
    assert before.low <= 0.5 <= before.high
    assert after.low > 0.55
    assert (after.chance, after.best, after.channel) == (0.5, 1.0, "adapters")


PLAIN = {
    "training": {"rounds": 2, "local_steps": 1, "batch_size": 1, "client_optimizer": {"name": "sgd", "lr": 30.0}},
    "audit": {"record": {"rounds": [2]}},
}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_span_check_finds_the_tokens_of_small_batches_and_no_other(trained, family):
    clients = {"a": {"task_group": "g", "rank": 16, "count": 20}, "b": {"count": 1}}
    run = trained(task="causal-lm", family=family, **PLAIN, clients=clients)
    evidence = Evidence.of_run(run)
    figure = attack_of("dager").attack(evidence)
    # all but the last token of a text, which predicts nothing, and for queries the first, which has one key
    assert figure.value > 0.6 and figure.examples == 21
    first = [m for m in evidence.messages if m.round < 2]
    with pytest.raises(Inapplicable, match="in the first B is 0"):
        attack_of("dager").attack(replace(evidence, messages=first))


def test_span_check_wants_plain_gradients(evidence):
    with pytest.raises(Inapplicable, match=r"client_optimizer.name: sgd, local_steps: 1"):
        attack_of("dager").attack(evidence)


def test_norms_of_updates_by_hand(evidence):
    (only,) = update_norms(evidence)
    sent = {m.client: m.message().tensors for m in evidence.messages if m.type is AdapterUpdate}
    given = {m.client: m.message().tensors for m in evidence.messages if (m.round, m.type) == (0, Delivery)}
    for client, tensors in sent.items():
        flat = torch.cat([(value - given[client][name]).flatten() for name, value in tensors.items()])
        assert only["norms"][client] == pytest.approx(float(flat.norm()), rel=1e-5)
    assert only["round"] == 1 and only["of_median"] >= 1


def test_an_audit_names_what_it_did_not_measure(evidence):
    found = audit(evidence, ["nearest-embedding", "label-from-gradients"])
    assert [a["attack"] for a in found["attacks"]] == ["nearest-embedding"]
    assert found["not_measured"].keys() == {"label-from-gradients"}
    assert found["privacy_score"] == pytest.approx(1 - found["attacks"][0]["advantage"])
    assert audit(evidence, ["label-from-gradients"])["privacy_score"] is None


@pytest.mark.slow
def test_attacks_that_need_classes_are_left_out_where_labels_are_numbers(trained):
    changes = {**RECORDED, "training": {**RECORDED["training"], "labels": "client"}}
    found = audit(Evidence.of_run(trained(task="regression", **changes)), ["label-from-gradients", "nearest-embedding"])
    assert found["not_measured"] == {"label-from-gradients": "labels of task group g are numbers, not classes"}
    assert [a["attack"] for a in found["attacks"]] == ["nearest-embedding"]


def test_command_writes_into_the_run_and_its_report(trained, capsys):
    run = trained(**RECORDED)
    assert main(["audit", str(run.path), "--attack", "nearest-embedding", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == run.read_json("audit.json")
    assert "nearest-embedding" in (run.path / "report.html").read_text(encoding="utf-8")
    assert main(["audit", str(run.path), "--attack", "length-from-gradients"]) == 0
    out = capsys.readouterr().out
    assert "privacy score 0.000" in out and "length-from-gradients" in out


def test_a_config_is_trained_first_and_recorded(toy, tmp_path, capsys, monkeypatch):
    import yaml

    config = toy(training={"rounds": 1, "local_steps": 2}, output={"dir": str(tmp_path / "runs")})
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    options = ["--attack", "nearest-embedding", "--examples", "20", "--json"]
    assert main(["audit", str(tmp_path / "toy.yaml"), "seed=3", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run"].endswith("_toy_3") and found["attacks"][0]["examples"] >= 20


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["RUN"], 3, "has no recorded messages; add audit: {record: {rounds: [1]}} to its config and train again"),
        (["RUN", "seed=1"], 2, "is a run; --by-layer, --without and KEY=VALUE are for a config"),
        (["RECORDED", "--attack", "nearest-embeding"], 2, "did you mean nearest-embedding"),
        (["RECORDED", "--output", "x"], 2, "--output: is for --by-layer"),
        (["RECORDED", "--examples", "3"], 2, "20"),
        (["gone.yaml"], 2, "gone.yaml: no such file"),
    ],
)
def test_bad_input(trained, capsys, args, code, says):
    runs = {"RUN": str(trained().path), "RECORDED": str(trained(**RECORDED).path)}
    assert main(["audit", *(runs.get(a, a) for a in args)]) == code
    assert says in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nearest-embedding", "length-from-gradients", "lira"])
def test_they_keep_what_every_attack_promises(trained, name):
    found = conformance.check(name, trained(**RECORDED).path)
    assert ("--lira" in found) if name == "lira" else found.examples


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (lambda figure, calls: replace(figure, value=next(calls) / 10), "something else the second time"),
        (lambda figure, calls: replace(figure, low=1.0, value=0.5), "0.5 is not within 1.0"),
        (lambda figure, calls: replace(figure, attack="dager"), "not the attack's own"),
        (lambda figure, calls: replace(figure, chance=1.0), "chance is 1.0, and the best 1.0"),
        (lambda figure, calls: 0.5, "attack gives float"),
    ],
)
def test_an_attack_that_breaks_a_promise_is_told_which(trained, monkeypatch, broken, promise):
    attack, calls = length_from_gradients.Attack.attack, itertools.count()
    monkeypatch.setattr(length_from_gradients.Attack, "attack", lambda self, e: broken(attack(self, e), calls))
    with pytest.raises(AssertionError, match=promise):
        conformance.check("length-from-gradients", trained(**RECORDED).path)


def test_words_of_an_attack_stay_on_their_line():
    class Attack(BaseAttack):
        channel, knows = "a\nb", "c"

        def attack(self, evidence):
            return self.figure("d\ne", (0.5, 0.4, 0.6), chance=0.1, examples=3, note="f\ng")

    figure = Attack("x").attack(None)
    assert (figure.what, figure.channel, figure.note) == (r"d\ne", r"a\nb", r"f\ng")
