"""Tokens that are replaced before the client half: distributions, their epsilon, and what a run makes of them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_cli.config.schema.privacy import CusTextConfig, SanTextConfig
from atlas_cli.data.collate import collate
from atlas_cli.errors import ConfigError
from atlas_cli.planning.plan import make_plan
from atlas_cli.privacy.account.accounting import pure_epsilon
from atlas_cli.privacy.account.events import Event, composed_epsilon
from atlas_cli.privacy.mechanisms.custext import CusText, disjoint_sets
from atlas_cli.privacy.mechanisms.santext import SanText

SPECIAL, KNOWN, WIDTH = 3, 12, 4


def table(seed=0):
    return torch.randn(SPECIAL + KNOWN, WIDTH, generator=torch.Generator().manual_seed(seed))


def santext(seed=0, **options):
    return SanText(SanTextConfig(**options), table(seed), torch.arange(SPECIAL, SPECIAL + KNOWN))


def custext(seed=0, **options):
    return CusText(CusTextConfig(**options), table(seed), torch.arange(SPECIAL, SPECIAL + KNOWN))


def distribution(replacement):
    """The probabilities (KNOWN, KNOWN) of every token becoming every other."""
    weights, places = replacement.probabilities(torch.arange(KNOWN))
    found = torch.zeros(KNOWN, KNOWN, dtype=torch.float64)
    return found.scatter_add_(1, places.expand(KNOWN, -1), weights / weights.sum(1, keepdim=True))


def closed_form(epsilon):
    """SanText's probabilities, a number at a time."""
    rows = table().double()[SPECIAL:].tolist()
    weights = [[math.exp(-epsilon / 2 * math.dist(x, y)) for y in rows] for x in rows]
    return torch.tensor([[w / sum(row) for w in row] for row in weights], dtype=torch.float64)


def log_ratios(probabilities):
    """The largest log ratio of probabilities of one output, by pair of inputs."""
    logs = probabilities.log()
    return (logs[:, None] - logs[None]).amax(2)


def test_santext_draws_by_distance_as_the_paper_has_it():
    assert distribution(santext(epsilon=3.0)).allclose(closed_form(3.0), atol=1e-9)
    plus = distribution(santext(epsilon=3.0, sensitive_share=0.25, other_probability=0.2))
    assert plus[9:].allclose(closed_form(3.0)[9:], atol=1e-9)  # the rarest quarter
    assert plus[:9].allclose(0.8 * torch.eye(KNOWN, dtype=torch.float64)[:9] + 0.2 * closed_form(3.0)[:9], atol=1e-9)


def test_custext_draws_within_disjoint_sets_by_scaled_distance():
    found, rows = custext(epsilon=3.0, tokens=4), table().double()[SPECIAL:]
    assert found.set_M.bincount().tolist() == [4, 4, 4]
    far = torch.cdist(rows, rows)
    assert set(far[0].topk(4, largest=False).indices.tolist()) == {i for i in range(KNOWN) if found.set_M[i] == 0}
    near = torch.where(found.set_M[:, None] == found.set_M, far, torch.nan)
    most = near.nan_to_num(0.0).amax(1, keepdim=True)
    weights = torch.exp(-1.5 * near / most).nan_to_num(0.0)
    assert distribution(found).allclose(weights / weights.sum(1, keepdim=True), atol=1e-9)


@pytest.mark.parametrize(("many", "size", "sizes"), [(11, 4, [4, 7]), (7, 4, [7]), (8, 4, [4, 4]), (70, 2, [2] * 35)])
def test_tokens_that_are_left_over_join_the_last_set(many, size, sizes):
    vectors = torch.randn(many, 3, generator=torch.Generator().manual_seed(0)).double()
    assert disjoint_sets(vectors, size).bincount().tolist() == sizes
    assert disjoint_sets(torch.zeros(many, 3).double(), size).bincount().tolist() == sizes


@pytest.mark.parametrize(
    "replacement",
    [
        santext(epsilon=2.0),
        santext(epsilon=2.0, sensitive_share=0.5, other_probability=0.3),
        custext(epsilon=2, tokens=5),
    ],
)
def test_draws_have_the_probabilities(replacement):
    expected, draw = distribution(replacement), torch.Generator().manual_seed(1)
    ids = torch.arange(SPECIAL, SPECIAL + KNOWN).repeat(4000)
    found = replacement.draw(ids, torch.rand(len(ids), generator=draw, dtype=torch.float64))
    counts = torch.zeros(KNOWN, KNOWN, dtype=torch.float64)
    counts.index_put_((ids - SPECIAL, found - SPECIAL), torch.ones(len(ids), dtype=torch.float64), accumulate=True)
    deviation = (4000 * expected * (1 - expected)).sqrt()
    assert ((counts - 4000 * expected).abs() <= 5 * deviation + 1e-9).all()


def test_special_tokens_stay_and_are_never_drawn():
    ids = torch.arange(SPECIAL + KNOWN).repeat(50)
    found = santext(epsilon=0).draw(ids, torch.rand(len(ids), dtype=torch.float64))
    assert found[ids < SPECIAL].equal(ids[ids < SPECIAL]) and (found[ids >= SPECIAL] >= SPECIAL).all()
    assert santext(epsilon=0).draw(torch.tensor([0, 2]), torch.zeros(2, dtype=torch.float64)).tolist() == [0, 2]


def test_the_ends_of_epsilon_are_an_even_draw_and_the_same_token():
    assert distribution(santext(epsilon=0)).allclose(torch.full((KNOWN, KNOWN), 1 / KNOWN).double())
    assert distribution(custext(epsilon=0, tokens=4)).unique(dim=0).sort(1).values[0].tolist() == [0] * 8 + [0.25] * 4
    same = torch.eye(KNOWN, dtype=torch.float64)
    assert distribution(santext(epsilon=1e6)).equal(same) and distribution(custext(epsilon=1e6, tokens=4)).equal(same)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(0, 8),
    st.sampled_from([None, (0.25, 0.05), (0.5, 0.9), (0.9, 0.5)]),
)
def test_no_two_tokens_are_told_apart_by_more_than_epsilon(seed, epsilon, shares):
    plus = {} if shares is None else {"sensitive_share": shares[0], "other_probability": shares[1]}
    found = santext(seed, epsilon=epsilon, **plus)
    ratios = log_ratios(distribution(found))
    assert ratios.max() <= found.token_epsilon + 1e-9
    if shares is None:  # and by the distance between the two
        rows = table(seed).double()[SPECIAL:]
        assert (ratios <= epsilon * torch.cdist(rows, rows) + 1e-9).all()
    near = custext(seed, epsilon=epsilon, tokens=5)
    inside = near.set_M[:, None] == near.set_M
    assert log_ratios(distribution(near)[:, near.set_M == 0])[inside & (near.set_M == 0)].max() <= epsilon + 1e-9


@pytest.mark.parametrize(("epsilon", "times"), [(0.1, 100), (1.0, 7), (5.0, 3)])
def test_epsilon_of_several_tokens_is_the_least_that_holds_for_all_mechanisms(epsilon, times):
    """Randomised response, which tells the most of all, by every sequence of its answers."""
    found = pure_epsilon(epsilon, times, 1e-5)
    keep = 1 / (1 + math.exp(-epsilon))
    told = [
        (math.comb(times, k) * keep**k * (1 - keep) ** (times - k), (2 * k - times) * epsilon) for k in range(times + 1)
    ]

    def delta(e):
        return sum(p * max(0.0, -math.expm1(e - loss)) for p, loss in told if loss > e)

    assert delta(found) <= 1e-5 * (1 + 1e-9) and delta(found - 1e-6) > 1e-5
    assert composed_epsilon((Event("pure", times, epsilon),), 1e-5) == found <= epsilon * times


def test_nothing_is_told_at_epsilon_0_and_no_other_mechanism_is_added_up():
    assert pure_epsilon(0.0, 30, 1e-5) == 0 == composed_epsilon((Event("pure", 30, 0.0),), 1e-5)
    with pytest.raises(ValueError, match="replaced once"):
        composed_epsilon((Event("pure", 3, 1.0), Event("gaussian", 1, 1.0)), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("privacy", [{"santext": {"epsilon": 1.0}}, {"custext": {"epsilon": 1.0, "tokens": 3}}])
def test_a_run_trains_on_replaced_tokens_drawn_once(make_federation, train_quietly, privacy):
    plain, found, again = make_federation(), make_federation(privacy=privacy), make_federation(privacy=privacy)
    special = set(found.tokenizer.all_special_ids)
    changed = 0
    for part in ("train", "local_test"):
        for client in "abc":
            was, now, repeated = (getattr(f.data["g"], part)[client] for f in (plain, found, again))
            assert now == repeated
            for a, b in zip(was, now, strict=True):
                assert b["original_ids"] == a["input_ids"] and b["labels"] == a["labels"]
                assert len(b["input_ids"]) == len(a["input_ids"])
                for x, y in zip(a["input_ids"], b["input_ids"], strict=True):
                    assert (x == y) if x in special else (y not in special)
                    changed += x != y
    assert changed > 100
    assert found.data["g"].test != plain.data["g"].test  # predictions go through the cut as well
    batch = collate(found.data["g"].task, found.data["g"].train["a"][:4], found.pad)
    before = collate(plain.data["g"].task, plain.data["g"].train["a"][:4], plain.pad)
    assert batch.original_ids.equal(before.input_ids) and not batch.input_ids.equal(before.input_ids)
    assert not any("original_ids" in feature for feature in plain.data["g"].train["a"])
    recorder = train_quietly(found)
    longest = max(len(f["input_ids"]) for c in "abc" for f in found.train_features(c))
    expected = pure_epsilon(found.replacement.token_epsilon, longest, 1e-5)
    assert [line["epsilon"]["activations"] for line in recorder.metrics] == [0.0, expected, expected]
    (record,) = found.protection.record()["mechanisms"].values()
    assert record["epsilon_per_token"] == found.replacement.token_epsilon and record["channel"] == "activations"


def test_what_they_do_not_go_with_is_refused(make_config, lines):
    words = {"santext": {"epsilon": 1.0}}
    with pytest.raises(ConfigError, match="labels of causal-lm are that text"):
        make_plan(make_config("gpt2", task_groups=lines, privacy=words))


def test_a_set_needs_as_many_tokens(make_federation):
    with pytest.raises(ConfigError, match=r"tokens that are not special; set it to that or less"):
        make_federation(privacy={"custext": {"epsilon": 1.0, "tokens": 9000}})
