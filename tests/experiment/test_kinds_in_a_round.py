"""Which clients have the same line, and their names, found without a look at each: as one by one."""

import random

import numpy as np
import pytest

from atlas_cli.config.client_names import ClientNames, as_ranges, count_of, names_in
from atlas_cli.experiment.kinds_in_a_round import alike, numbered
from atlas_cli.planning.alike import Alike


class Kind(str):
    __slots__ = ()

    @property
    def name(self):
        return str(self)


def drawn_entries(draw):
    entries = draw.sample(["a", "b", "a-4", "c-1", "c", "01"], draw.randint(1, 6))
    counts = [draw.choice([1, 1, 2, 3, 9]) for _ in entries]
    names = [ClientNames(entry, count) for entry, count in zip(entries, counts, strict=True)]
    return Alike([Kind(each[0]) for each in names], counts, lambda place: names[place]), [
        n for each in names for n in each
    ]


@pytest.mark.parametrize("seed", range(40))
def test_ranges_of_places_are_those_of_their_names(seed):
    draw = random.Random(seed)
    clients, names = drawn_entries(draw)
    for share in (0.2, 0.6, 1.0):
        some = [place for place in range(len(names)) if draw.random() < share]
        expected = as_ranges(names[place] for place in some)
        found = clients.ranges(np.array(some, dtype=np.intp))
        assert found == expected and count_of(found) == len(some)
    every = [piece for place in range(len(clients.kinds)) for piece in clients.ranges_of(place)]
    assert as_ranges(every) == as_ranges(names) and list(names_in(as_ranges(every))) == names


def test_ranges_of_clients_that_are_each_of_a_kind_of_its_own():
    clients = Alike.single([Kind("x-1"), Kind("x-2"), Kind("y")])
    assert clients.ranges(np.array([0, 1, 2])) == [("x", 1, 2), "y"]
    assert clients.ranges(np.array([], dtype=np.intp)) == []


@pytest.mark.parametrize("seed", range(40))
def test_places_are_grouped_as_one_by_one(seed):
    draw = random.Random(seed)
    keys = [draw.choice("uvwxyz") for _ in range(draw.randint(0, 60))]
    said = {key: draw.choice([None, 1, 2, 3]) for key in "uvwxyz"}
    apart = [place for place in range(len(keys)) if draw.random() < 0.2]
    expected = {}
    for place, key in enumerate(keys):
        if place not in apart and said[key] is not None:
            expected.setdefault(said[key], []).append(place)
    found, numbers = numbered(keys, [len(keys)] * len(keys))
    distinct = [key for key, _ in found]
    assert distinct == list(dict.fromkeys(keys)) and [distinct[number] for number in numbers] == keys
    numbers[apart] = -1
    assert [kind.tolist() for kind in alike(numbers, [said[key] for key in distinct])] == list(expected.values())
