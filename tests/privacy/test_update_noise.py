"""Client-level noise on updates: norms, variance, the fixed denominator, and what it leaves alone."""

import math

import pytest
import torch

from atlas_cli.aggregation.contract import Factors, Update, scales_of
from atlas_cli.config.schema.privacy import PrivacyConfig
from atlas_cli.errors import ConfigError
from atlas_cli.experiment.run_state import RunState
from atlas_cli.federation.build import protection_of
from atlas_cli.privacy.account.accounting import gaussian_epsilon
from atlas_cli.privacy.account.norms import Norms
from atlas_cli.privacy.mechanisms.updates import UpdateNoise
from atlas_cli.wire.ledger import Ledger

SERVER = {"updates": {"clip": 0.5, "noise_multiplier": 0.1}}
CLIENT = {"updates": {"clip": 0.5, "noise_multiplier": 0.1, "where": "client"}}
UNIFORM = {"weights": "uniform"}


def noise(clip=2.0, multiplier=0.5, where="server", n=4, number=1, held=None):
    made = UpdateNoise(clip, multiplier, where, 0, {"g": n})
    made.begin(number, held or {})
    return made


def values(federation):
    return {name: t.clone() for c in federation.clients for name, t in state_of(federation, c).items()}


def state_of(federation, client):
    return {f"{client}.{name}": t for name, t in federation.aggregator.members[client].exchanged().items()}


def same(one, other):
    return one.keys() == other.keys() and all(t.equal(other[name]) for name, t in one.items())


def test_an_update_is_clipped_as_one_vector_of_scale_free_factors():
    start = {"p.lora_A": torch.ones(2, 3), "p.lora_B": torch.zeros(4, 2), "head.w": torch.zeros(5)}
    sent = {"p.lora_A": torch.ones(2, 3) + 3.0, "p.lora_B": torch.full((4, 2), 0.5), "head.w": torch.ones(5)}
    clipping = noise(clip=2.0, where="server", held={"a": start})
    protected = clipping.protect("a", sent, {"p": 8.0})
    norm = math.sqrt(6 * 9 + 8 * (8 * 0.5) ** 2 + 5)  # s B counts, not B
    assert clipping.norms == {"a": Norms(pytest.approx(norm), pytest.approx(2.0), pytest.approx(2.0), 1.0, None)}
    for name, tensor in protected.items():
        assert torch.allclose(tensor, start[name] + 2 / norm * (sent[name] - start[name]))
    small = {name: start[name] + 1e-3 for name in start}
    assert all(torch.allclose(t, small[n]) for n, t in clipping.protect("a", small, {"p": 8.0}).items())
    assert clipping.norms["a"].clip_fraction == 0 and clipping.norms["a"].before == clipping.norms["a"].clipped < 1


def test_norms_compare_what_is_sent_with_what_it_was():
    start = {"p.lora_A": torch.zeros(20, 30), "p.lora_B": torch.zeros(40, 20), "head.w": torch.zeros(500)}
    sent = {name: value + 1.0 for name, value in start.items()}
    local = noise(clip=2.0, multiplier=0.5, where="client", held={"a": start})
    flat = [(8 if n.endswith("B") else 1) * t.flatten() for n, t in local.protect("a", sent, {"p": 8.0}).items()]
    found = local.norms["a"]
    assert (found.clipped, found.clip_fraction) == (pytest.approx(2.0), 1.0)
    assert found.sent == pytest.approx(float(torch.cat(flat).norm()))
    assert found.noise_to_signal == pytest.approx(0.5 * math.sqrt(600 + 800 + 500), rel=0.05)  # of 2, each N(0, 1)
    assert local.mean_norms(["a"], ["g"]) == found and local.mean_norms(["b"], ["g"]) is None


def test_noise_of_the_server_is_compared_with_the_mean_that_it_is_added_to():
    current, head = {"p": Factors(torch.zeros(20, 30), torch.zeros(40, 20))}, {"head.w": torch.zeros(500)}
    sent = {"a": {"head.w": torch.ones(500)}}
    updates = [Update("a", 1.0, {"p": Factors(torch.zeros(20, 30), torch.ones(40, 20))})]
    central = noise(clip=2.0, multiplier=0.5, n=4, held={"a": head})
    central.protect("a", sent["a"], {})
    central.mean("g", current, head, ("A", "B"), updates, sent)
    signal, added = central.merged["g"]
    assert signal == pytest.approx(math.sqrt(800 + 500) / 4)
    assert added == pytest.approx(2.0 * 0.5 / 4 * math.sqrt(600 + 800 + 500), rel=0.05)
    found = central.mean_norms(["a"], ["g"])
    assert found.noise_to_signal == pytest.approx(added / signal)
    assert (found.before, found.sent) == (pytest.approx(math.sqrt(500)), pytest.approx(2.0))


def test_noise_has_the_stated_deviation():
    zero = {"p.lora_A": torch.zeros(40, 100), "p.lora_B": torch.zeros(100, 40), "head.w": torch.zeros(4000)}
    local = noise(clip=2.0, multiplier=0.5, where="client", held={"a": zero}).protect("a", zero, {"p": 8.0})
    assert [float(t.std()) for t in local.values()] == pytest.approx([1.0, 1.0 / 8, 1.0], rel=0.05)
    current, head = {"p": Factors(zero["p.lora_A"], zero["p.lora_B"])}, {"head.w": zero["head.w"]}
    (merged,), heads = noise(n=4).mean("g", current, head, ("A", "B"), [], {"a": head})
    found = (*merged.adapters["p"], heads["a"]["head.w"])
    assert [float(t.std()) for t in found] == pytest.approx([2.0 * 0.5 / 4] * 3, rel=0.05)
    (only_b,), _ = noise(n=4).mean("g", current, {}, ("B",), [], {})
    assert not only_b.adapters["p"].A.any() and only_b.adapters["p"].B.any()


def test_noise_is_a_function_of_seed_round_and_sender():
    current = {"p": Factors(torch.zeros(2, 3), torch.zeros(4, 2))}

    def drawn(**changes):
        made = noise(**changes)
        made.denominators["h"] = 4
        return [made.mean(g, current, {}, ("A", "B"), [], {})[0][0].adapters["p"].A for g in ("g", "h")]

    first, other_group = drawn()
    again, _ = drawn()
    later, _ = drawn(number=2)
    assert first.equal(again) and not first.equal(later) and not first.equal(other_group)


def test_the_denominator_is_fixed_and_ranks_may_differ():
    current = {"p": Factors(torch.zeros(3, 5), torch.zeros(4, 3))}
    sent = [Update("a", 1.0, {"p": Factors(torch.ones(3, 5), torch.ones(4, 3))})]
    sent.append(Update("b", 1.0, {"p": Factors(torch.ones(1, 5), torch.ones(4, 1))}))
    for updates, by_row in ((sent, [0.5, 0.25, 0.25]), (sent[:1], [0.25, 0.25, 0.25])):  # of 4, who is there or not
        (merged,), _ = noise(multiplier=0.0, n=4).mean("g", current, {}, ("A", "B"), updates, {})
        assert merged.adapters["p"].A[:, 0].tolist() == by_row


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["server", "client"])
def test_without_noise_and_with_wide_clipping_it_is_the_mean(make_federation, train_quietly, labels):
    clients = {name: {"task_group": "g", "rank": 3} for name in "abc"}
    common = {"aggregation": UNIFORM, "clients": clients, "training": {"labels": labels}}
    plain = make_federation(**common)
    train_quietly(plain)
    for where in ("server", "client"):
        wide = {"updates": {"clip": 1e6, "noise_multiplier": 0.0, "where": where}}
        federation = make_federation(**common, privacy=wide)
        train_quietly(federation)
        for name, value in values(plain).items():
            assert torch.allclose(values(federation)[name], value, atol=1e-5)


@pytest.mark.slow
def test_other_keys_of_privacy_change_nothing(make_federation, train_quietly):
    plain, other = make_federation(), make_federation(privacy={"delta": 1e-3})
    train_quietly(plain), train_quietly(other)
    assert same(values(plain), values(other))


@pytest.mark.parametrize("method", ["ffa", "zero-pad", "fedsa", "delta-svd"])
def test_what_is_sent_is_within_the_norm(make_federation, train_quietly, method):
    federation = make_federation(
        aggregation={"method": method, **UNIFORM},
        training={"rounds": 1, "client_optimizer": {"lr": 0.05}, "labels": "client"},
        privacy={"updates": {"clip": 0.01, "noise_multiplier": 0.0}},
    )
    seen = []
    protect = UpdateNoise.protect

    def recorded(self, client, sent, scales):
        result = protect(self, client, sent, scales)
        start = self._start[client]
        units = {n: scales[n.removesuffix(".lora_B")] if n.endswith("B") else 1.0 for n in result}
        seen.append(math.sqrt(sum(float((units[n] * (t - start[n])).square().sum()) for n, t in result.items())))
        return result

    UpdateNoise.protect = recorded
    try:
        train_quietly(federation)
    finally:
        UpdateNoise.protect = protect
    assert seen == pytest.approx([0.01] * 3, rel=1e-3)  # three clients whose updates are larger


@pytest.mark.slow
@pytest.mark.parametrize("privacy", [SERVER, CLIENT])
def test_going_on_draws_the_noise_that_would_have_been_drawn(make_federation, train_quietly, privacy):
    from atlas_cli.experiment.recorder import Recorder
    from atlas_cli.experiment.round_loop import train
    from atlas_cli.reports.progress import PlainProgress
    from atlas_cli.reports.terminal import Terminal

    whole = make_federation(aggregation=UNIFORM, privacy=privacy)
    kept = {}
    progress = PlainProgress(Terminal(quiet=True))
    progress.start(2, 3, ["g"])
    recorder = Recorder(whole, None, progress)
    train(whole, recorder, lambda number: kept.update({number: RunState(whole).capture()}))
    resumed = make_federation(aggregation=UNIFORM, privacy=privacy)
    RunState(resumed).restore(*kept[1])
    again = Recorder(resumed, None, progress)
    train(resumed, again, done=1)
    assert same(values(whole), values(resumed))
    assert [line["epsilon"] for line in again.metrics] == [line["epsilon"] for line in recorder.metrics[2:]]


def test_epsilon_grows_with_the_rounds_that_a_client_takes_part_in(make_federation, train_quietly):
    privacy = {"updates": {"clip": 0.5, "epsilon": 4.0}}
    federation = make_federation(aggregation=UNIFORM, privacy=privacy, training={"rounds": 3})
    recorder = train_quietly(federation)
    spent = [line["epsilon"]["updates"] for line in recorder.metrics]
    assert spent[0] == 0 and spent == sorted(spent) and 3.95 < spent[-1] <= 4.0
    others = {line["epsilon"][channel] for line in recorder.metrics[1:] for channel in ("activations", "labels")}
    assert others == {"infinite"}
    record = federation.protection.record()
    assert record["mechanisms"]["updates"]["noise_multiplier"] > 0 and record["delta"] == 1e-5


def test_the_update_is_received_noisy(make_federation):
    federation = make_federation(aggregation=UNIFORM, privacy=CLIENT)
    member = federation.aggregator.members["a"]
    federation.aggregator.deliver("a", Ledger())
    federation.protection.begin_round(1, ["a"])
    sent = federation.aggregator.receive("a", ledger := Ledger())
    assert not ledger.mismatches()
    scale = next(iter(scales_of(member.adapters).values()))
    changes = torch.cat(
        [(t - member.exchanged()[n]).flatten() * (scale if n.endswith("B") else 1) for n, t in sent.items()]
    )
    assert float(changes.std()) == pytest.approx(0.05, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("multiplier", "threshold"), [(1.0, 1.5), (0.5, 1.0)])
def test_nobody_tells_two_worlds_apart_better_than_epsilon_allows(multiplier, threshold):
    """A client that changes one number by all that it may, or not at all; the best test is a threshold."""
    draws = 4000

    def positive(change):
        sent, found = {"p.lora_A": torch.tensor([[change]]), "p.lora_B": torch.zeros(1, 1)}, 0
        made = noise(
            clip=1.0, multiplier=multiplier, where="client", held={"a": dict.fromkeys(sent, torch.zeros(1, 1))}
        )
        for number in range(draws):
            made._round = number
            found += float(made.protect("a", sent, {"p": 1.0})["p.lora_A"]) > threshold
        return found / draws

    true, false = positive(100.0), positive(0.0)  # what is above the norm is clipped
    bound = math.exp(gaussian_epsilon(multiplier, 1, 0.01)) * false + 0.01
    error = 4 * math.sqrt(0.25 / draws)
    assert true <= bound + error and true > false + error


def test_layers_that_the_server_trains_are_not_merged_without_noise(make_federation):
    """Split layers that are found for devices may differ where those of the config are alike."""
    clients = {name: {"task_group": "g", "rank": 3, "split_layer": cut} for name, cut in (("a", 1), ("b", 2))}
    federation = make_federation(clients=clients, aggregation=UNIFORM)
    noisy = PrivacyConfig.model_validate(SERVER)
    federation.config = federation.config.model_copy(update={"privacy": noisy})
    with pytest.raises(ConfigError, match=r"^privacy.updates.where: the server trains layers for client a"):
        protection_of(federation)
