"""The names of an entry's clients, without making them: as a list would have them."""

import pytest

from atlas_cli.config.client_names import ClientNames


@pytest.mark.parametrize("count", [1, 2, 11])
def test_names_are_those_of_a_list(count):
    expected = ["phone"] if count == 1 else [f"phone-{i}" for i in range(1, count + 1)]
    names = ClientNames("phone", count)
    assert list(names) == [*names[:]] == expected and len(names) == count
    assert [names[i] for i in range(-count, count)] == expected + expected
    assert names[1:-1:2] == expected[1:-1:2] and names[::-1] == expected[::-1]
    others = [
        "phone",
        "phone-0",
        "phone-1",
        "phone-01",
        f"phone-{count + 1}",
        "phone-",
        "phone-²",
        "phone--1",
        "x-1",
        "",
        1,
    ]
    assert [name in names for name in [*expected, *others]] == [name in expected for name in [*expected, *others]]
    with pytest.raises(IndexError):
        names[count]
