"""Clients of a few kinds that are made when they are asked for are those of a list of all."""

import random
from typing import NamedTuple

import pytest

from atlas_cli.config.client_names import ClientNames
from atlas_cli.planning.alike import Alike


class Client(NamedTuple):
    name: str
    rank: int

    def named(self, name):
        return self._replace(name=name)


@pytest.fixture(params=range(6))
def drawn(request):
    """Clients of a few kinds, and the list of all."""
    draw = random.Random(request.param)
    names = [ClientNames(entry, draw.choice([1, 2, 7])) for entry in draw.sample("abcde", draw.randint(1, 5))]
    kinds = [Client(each[0], rank) for rank, each in enumerate(names)]
    every = [Client(name, rank) for rank, each in enumerate(names) for name in each]
    return Alike(kinds, [len(each) for each in names], lambda place: names[place]), every


def test_one_by_one_they_are_those_of_the_list(drawn):
    clients, every = drawn
    assert len(clients) == len(every) and clients.names == [client.name for client in every]
    assert [clients[place] for place in range(-len(every), len(every))] == every + every
    assert clients[-1:] == tuple(every[-1:]) and list(clients) == every and clients == every
    with pytest.raises(IndexError):
        clients[len(every)]


def test_by_name_they_are_those_of_the_list_and_made_once(drawn):
    clients, every = drawn
    expected = {client.name: client for client in every}
    assert clients.by_name == expected and list(clients.by_name.items()) == list(expected.items())
    assert clients.by_name[every[-1].name] is clients.by_name[every[-1].name]
    assert "nobody" not in clients.by_name and every[0].name in clients.by_name
    assert [every[place].name for place in clients.places.values()] == list(clients.places)
