"""Messages counted for many clients at once are those counted one by one."""

import random

import pytest
import torch

from atlas_cli.wire.ledger import Ledger
from atlas_cli.wire.lost import Lost
from atlas_cli.wire.messages import AdapterUpdate, BaseWeights, Delivery, HeadDelivery, HeadUpdate

NAMES = [f"c-{n}" for n in range(1, 13)]
TYPES = (AdapterUpdate, BaseWeights, Delivery, HeadDelivery, HeadUpdate)


def drawn(draw, client):
    lost = Lost(*(draw.random() for _ in range(4)), draw.randint(1, 9)) if draw.random() < 0.5 else None
    return draw.choice(TYPES)(client, {"x": torch.zeros(draw.randint(0, 3))}, lost=lost)


@pytest.mark.parametrize("seed", range(30))
def test_what_is_sent_to_many_is_counted_as_if_one_by_one(seed):
    draw, together, apart = random.Random(seed), Ledger(), Ledger()
    for _ in range(12):
        if draw.random() < 0.5:
            message = drawn(draw, draw.choice(NAMES))
            for ledger in (together, apart):
                ledger.count(message, message.payload_bytes)
            continue
        counted, sent = Ledger(), [drawn(draw, "first") for _ in range(draw.randint(1, 3))]
        for message in sent:
            counted.count(message, message.payload_bytes)
        some = draw.choice([NAMES, NAMES[1:], draw.sample(NAMES, draw.randint(0, len(NAMES)))])
        together.add(counted.accounts["first"], some)
        for client in some:
            one = Ledger()
            for message in sent:
                one.count(message.to(client), message.payload_bytes)
            apart.add(one.accounts[client], [client])
    assert together.entries == apart.entries
    assert together.records(3) == apart.records(3)
    assert together.mismatches() == apart.mismatches() == []
    for some in (NAMES, draw.sample(NAMES, 5), ["nobody", *NAMES[:2], NAMES[0]]):
        assert together.lost(some) == apart.lost(some) and together.headers(some) == apart.headers(some)
        for way in ("up", "down"):
            each = [e.bytes for (c, _, own), e in apart.entries.items() if c in some and own == way]
            assert together.total(way, some) == apart.total(way, some) == sum(each)


def test_what_one_client_sends_is_not_counted_for_those_that_were_sent_the_same():
    ledger, counted = Ledger(), Ledger()
    counted.count(down := Delivery("a", {"x": torch.zeros(2)}), 8)
    ledger.add(counted.accounts["a"], ["a", "b", "c"])
    ledger.count(AdapterUpdate("b", {"x": torch.zeros(4)}), 16)
    ledger.add(counted.accounts["a"], ["b", "c"])
    assert [ledger.entry(c, "adapters", "down").messages for c in "abc"] == [1, 2, 2]
    assert [ledger.entry(c, "adapters", "up") is not None for c in "abc"] == [False, True, False]
    assert (
        ledger.sizes("c", "adapters", "down") == [down.bytes] * 2 and counted.accounts["a"].bytes["down"] == down.bytes
    )


def test_what_is_sent_to_all_that_were_sent_the_same_is_counted_in_one_place():
    ledger, counted = Ledger(), Ledger()
    counted.count(down := Delivery("a", {"x": torch.zeros(2)}), 8)
    ledger.add(counted.accounts["a"], NAMES)
    shared = ledger.accounts["c-1"]
    ledger.add(counted.accounts["a"], NAMES[:1])
    ledger.add(counted.accounts["a"], NAMES[1:])
    assert {id(ledger.accounts[name]) for name in NAMES[1:]} == {id(shared)} != {id(ledger.accounts["c-1"])}
    assert [ledger.sizes(name, "adapters", "down") for name in NAMES] == [[down.bytes] * 2] * len(NAMES)
    assert counted.accounts["a"].bytes["down"] == down.bytes


def test_a_mismatch_is_named_by_the_first_client_that_has_it():
    ledger, counted = Ledger(), Ledger()
    counted.count(Delivery("a", {"x": torch.zeros(2)}), 9)
    ledger.add(counted.accounts["a"], NAMES)
    assert ledger.mismatches() == ["c-1 adapters down: 8 bytes sent, 9 by the closed form"]


def test_messages_that_are_counted_at_once_are_watched_one_by_one():
    seen = []
    ledger = Ledger(seen.append)
    for client in NAMES[:3]:
        ledger.see([Delivery("a", {"x": torch.zeros(2)})], client)
    assert [message.client for message in seen] == NAMES[:3] and ledger.accounts == {}
