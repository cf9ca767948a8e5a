"""Frozen blocks below a client's lowest adapter run once per text, and nothing but time depends on it."""

from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.by_hand import batches_of
from support.rounds import run_round
from support.slow import slow_but

from atlas_cli.federation.build import build
from atlas_cli.federation.parties.prefix_cache import Prefix, PrefixCache
from atlas_cli.federation.prefix_setup import without_prefix
from atlas_cli.models.halves.split import blocks_of
from atlas_cli.planning.plan import make_plan
from atlas_cli.wire.ledger import Ledger

FAMILIES = ["gpt2", "bert", "llama", "distilbert", "opt", "gpt_neox", "modernbert", "deberta-v2"]
UPPER = {"a": {"rank": {2: 4}}, "b": {"rank": {1: 2, 2: 2}}, "c": {"rank": {2: 3}}}
CHANGES = {"model": {"split_layer": 3}, "clients": UPPER, "lora": {"dropout": 0.2}}
LONG = {"rounds": 2, "local_steps": 5}  # more than an epoch
CACHED = {"engine": {"prefix_cache": "1 MiB"}}


@contextmanager
def gradients(monkeypatch):
    """What ``backward`` left on every client's adapters, step by step."""
    from atlas_cli.federation.parties.split_client import SplitClient

    seen, plain = [], SplitClient.backward

    def backward(self, received):
        plain(self, received)
        seen.append([p.grad.clone() for p in self.trained()])

    with monkeypatch.context() as patch:
        patch.setattr(SplitClient, "backward", backward)
        yield seen


def assert_close(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert float((a - b).abs().max()) <= 1e-6 * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("family", slow_but(FAMILIES, "bert"))
def test_losses_gradients_adapters_and_memory_are_those_without_a_cache(
    family, make_federation, train_quietly, monkeypatch
):
    sgd = {"name": "sgd", "lr": 0.02}  # Adam makes a rounding error of a gradient near 0 as large as a step
    changes = {**CHANGES, "training": {**LONG, "client_optimizer": sgd, "server_optimizer": sgd}}
    found = []
    for engine in ({}, CACHED):
        federation = make_federation(family, **changes, **engine)
        usage = {name: client.measure() for name, client in federation.clients.items()}
        with gradients(monkeypatch) as seen:
            recorder = train_quietly(federation)
        found.append((federation, recorder, seen))
    (plain, records, theirs), (cached, again, ours) = found
    assert plain.prefix_cache is None
    assert cached.prefix_cache.hits > 0
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b)
    for name in cached.clients:
        states = [made.clients[name].adapters.state() for made in (cached, plain)]
        assert_close(list(states[0].values()), list(states[1].values()))
    usage = [r.measured.record()["clients"] for r in (again, records)]
    assert usage[0] == usage[1]
    assert all(usage[0][name]["saved_activations"] > 0 for name in "abc")
    losses = [[m["train_loss"] for m in r.metrics if m["round"]] for r in (again, records)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@contextmanager
def counted(base, family):
    """How often each block runs, with how many tokens."""
    calls = Counter()
    tokens = Counter()

    def hook(number):
        def count(module, args, kwargs):
            calls[number] += 1
            hidden = args[0] if args else kwargs["hidden_states"]
            tokens[number] += hidden.shape[0] * hidden.shape[1]

        return count

    handles = [
        block.register_forward_pre_hook(hook(i), with_kwargs=True) for i, block in enumerate(blocks_of(base, family))
    ]
    yield calls, tokens
    for handle in handles:
        handle.remove()


def text_of(feature):
    return tuple(feature["input_ids"])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_each_text_passes_the_prefix_once(family, make_federation):
    federation = make_federation(
        family, **CHANGES, **CACHED, training={"rounds": 3, "local_steps": 6, "server_update": "pooled"}
    )
    with counted(federation.base.model, federation.base.family) as (calls, tokens):
        done = [run_round(federation, list("abc"), number, Ledger(), lambda *_: None) for number in (1, 2, 3)]
    seen = {c: {text_of(f) for f in federation.train_features(c)} for c in "abc"}
    deep, shallow = seen["a"] | seen["c"], seen["b"]  # block 1 is below the adapters of a and c alone
    examples = {c: sum(round[c].examples for round in done) for c in "abc"}
    steps = {c: sum(round[c].steps for round in done) for c in "abc"}
    assert all(examples[c] > len(federation.train_features(c)) for c in "abc"), "more than an epoch"
    assert calls[0] == len(deep) + len(shallow)
    assert calls[1] == len(deep) + steps["b"]
    assert calls[2] == sum(steps.values())
    assert tokens[0] == sum(map(len, deep)) + sum(map(len, shallow)), "real tokens alone"
    cache = federation.prefix_cache
    assert (cache.misses, cache.hits) == (calls[0], sum(examples.values()) - calls[0])
    width = federation.base.hidden_size
    assert (cache.memory_bytes, cache.disk_bytes) == (4 * width * tokens[0], 0)


@pytest.mark.slow
def test_a_bounded_cache_keeps_the_rest_in_files_and_gives_the_same_back(make_federation, tmp_path):
    def activations(memory):
        made = make_federation(**CHANGES, engine={"prefix_cache": memory}, output={"dir": str(tmp_path / "new")})
        sent = []
        for _ in range(2):
            for batch in batches_of(made, "a"):
                sent.append(made.clients["a"].forward(batch.inputs(), 1, 0, batch.labels).activations)
        return made.prefix_cache, sent

    roomy, expected = activations("1 MiB")
    assert not (tmp_path / "new").exists()
    small, sent = activations("2 KiB")
    assert all(torch.equal(a, b) for a, b in zip(sent, expected, strict=True))
    assert 0 < small.memory_bytes <= 2048 < roomy.memory_bytes
    files = list((tmp_path / "new").glob("*/*.safetensors"))
    assert small.disk_bytes == sum(file.stat().st_size for file in files) > roomy.memory_bytes - small.memory_bytes
    assert (small.hits, small.misses) == (roomy.hits, roomy.misses)
    assert small.hits >= small.misses > 0
    small.close()
    assert list((tmp_path / "new").iterdir()) == []


def test_a_full_disk_and_a_damaged_file_cost_time_only(tmp_path, capsys):
    key, tensor, cpu = "k", torch.randn(3, 4), torch.device("cpu")
    (tmp_path / "file").write_text("", encoding="utf-8")
    cache = PrefixCache(1, tmp_path / "file" / "below")
    cache.put(key, tensor)
    assert cache.get(key, cpu) is None
    assert cache.record() == {
        "memory_bytes": 0, "disk_bytes": 0, "hits": 0, "misses": 1, "damaged": 0, "disk_error": "Not a directory",
    }  # fmt: skip
    cache = PrefixCache(1, tmp_path)
    cache.put(key, tensor.bfloat16())
    assert torch.equal(cache.get(key, cpu), tensor.bfloat16())
    (file,) = tmp_path.glob("*/*.safetensors")
    content = file.read_bytes()
    for harm in (content[:-3], content[:-1] + bytes([content[-1] ^ 0x80])):  # the other is the sign of a number
        file.write_bytes(harm)
        assert cache.get(key, cpu) is None
        cache.put(key, tensor.bfloat16())
        assert torch.equal(cache.get(key, cpu), tensor.bfloat16())
    assert cache.damaged == 2 and capsys.readouterr().err.count("computing it anew") == 1
    assert cache.disk_bytes == len(content)
    cache.close()
    assert not list(tmp_path.glob(".prefix-cache-*"))


def test_other_weights_texts_segments_and_blocks_are_misses(make_federation):
    federation = make_federation(**CHANGES)
    client = federation.clients["a"]
    cache = PrefixCache(2**20, Path("unused"))
    ids = torch.tensor([[5, 6, 7, 8]])
    mask = torch.ones_like(ids)

    def missed(base=client.base, first=2, **inputs):
        before = cache.misses
        prefix = Prefix(cache, base, client.adapters, first, 3, "off")
        prefix.outputs({"input_ids": ids, **inputs}, mask)
        return cache.misses > before

    assert missed()
    assert not missed()
    assert not missed(token_type_ids=torch.zeros_like(ids))
    assert missed(token_type_ids=torch.tensor([[0, 0, 1, 1]]))
    assert missed(input_ids=torch.tensor([[5, 6, 7, 9]]))
    assert missed(first=1)
    assert missed(base=replace(client.base, sha256="other weights"))
    assert not missed()


def test_what_is_no_padded_text_runs_whole(make_federation):
    federation = make_federation(**CHANGES, **CACHED)
    prefix, ids = federation.clients["a"].prefix, torch.tensor([[5, 6, 7], [5, 6, 0]])
    right, left = torch.tensor([[1, 1, 1], [1, 1, 0]]), torch.tensor([[1, 1, 1], [0, 1, 1]])
    assert prefix.outputs({"input_ids": ids}, right).shape == (2, 3, 32)
    assert prefix.outputs({"input_ids": ids}, left) is None
    assert prefix.outputs({"input_ids": ids}, torch.tensor([[1, 1, 1], [0, 0, 0]])) is None
    assert prefix.outputs({"inputs_embeds": torch.randn(2, 3, 32)}, right) is None
    # a change of the frozen weights below, wherever it came from
    layer = next(iter(federation.clients["a"].adapters.adapters)).replace("layer.2", "layer.0")
    prefix.adapters.frozen[layer] = [(torch.zeros(1, 32), torch.zeros(32, 1))]
    assert prefix.outputs({"input_ids": ids}, right) is None


def firsts(config):
    federation = build(config)
    return {n: c.prefix and c.prefix.first for n, c in federation.clients.items()}, without_prefix(
        federation.config, federation.plan
    )


def test_only_clients_whose_lowest_blocks_never_change_have_a_prefix(make_config):
    with_zero = {**CHANGES, **CACHED, "clients": {**UPPER, "b": {"rank": {0: 2, 2: 2}}}}
    assert firsts(make_config(**CHANGES, **CACHED)) == ({"a": 2, "b": 1, "c": 2}, [])
    found, why = firsts(make_config(**with_zero))
    assert found == {"a": 2, "b": None, "c": 2}
    assert why == ["engine.prefix_cache does nothing for b: block 0 has an adapter"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["flora", "fedex"])
def test_methods_that_change_the_base_count_all_blocks_of_their_group(method, make_config, train_quietly):
    merging = {"aggregation": {"method": method}}
    assert firsts(make_config(**CHANGES, **CACHED, **merging)) == ({"a": 1, "b": 1, "c": 1}, [])
    changes = {**CHANGES, **merging, "clients": {**UPPER, "b": {"rank": {0: 2, 2: 2}}}}
    found, why = firsts(make_config(**changes, **CACHED))
    assert found == dict.fromkeys("abc")
    assert why == [
        f"engine.prefix_cache does nothing for a, c: {method} may change block 0 of its base",
        "engine.prefix_cache does nothing for b: block 0 has an adapter",
    ]
    runs = [build(make_config(**CHANGES, **merging, **engine)) for engine in ({}, CACHED)]
    _, recorder = [train_quietly(federation) for federation in runs]
    cache = runs[1].prefix_cache
    assert cache.hits + cache.misses == sum(m["examples"] for m in recorder.metrics), "used in both rounds"
    for name in "abc":
        states = [made.clients[name].adapters.state() for made in runs]
        for key in states[0]:
            torch.testing.assert_close(states[1][key], states[0][key], rtol=0, atol=1e-4)  # Adam


def test_the_plan_of_a_config_without_the_key_says_nothing(make_config):
    config = make_config(**CHANGES)
    assert without_prefix(config, make_plan(config)) == []


def test_a_sentence_on_very_many_clients_is_bounded(make_config):
    config = make_config(clients={"b": {"count": 50}}, engine={"prefix_cache": "1 KiB"})
    (said,) = without_prefix(config, make_plan(config))
    assert said.startswith("engine.prefix_cache does nothing for a, b-1, ") and ", b-11 and 40 more: " in said
