"""Partitions: every row at most once, the same for the same seed, skewed as asked, and refused where they cannot be."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_cli.config.schema.experiment import PartitionConfig
from atlas_cli.data.partitions import schemes
from atlas_cli.data.partitions.by_column import by_column
from atlas_cli.data.partitions.schemes import partition, split_local_test
from atlas_cli.data.rows import RowNumbers
from atlas_cli.errors import ConfigError
from atlas_cli.seeding import numpy_generator


def deal(n=100, clients=("a", "b", "c"), labels=None, seed=0, rows=None, **config):
    labels = labels if labels is not None else ["xyz"[i % 3] for i in range(n)]
    rows = rows if rows is not None else [{"user": f"u{i % 9}"} for i in range(n)]
    return partition(rows, list(clients), PartitionConfig(**config), labels, seed, "g").shards


SCHEMES = st.sampled_from(["iid", "dirichlet-label", "dirichlet-quantity", "column"])


@settings(max_examples=60, deadline=None)
@given(
    scheme=SCHEMES,
    n=st.integers(30, 150),
    clients=st.integers(1, 6),
    alpha=st.floats(0.3, 100),
    seed=st.integers(0, 99),
)
def test_every_row_once_and_repeatable(scheme, n, clients, alpha, seed):
    names = [f"c{i}" for i in range(clients)]
    config = {"scheme": scheme, "alpha": alpha, "column": "user", "min_examples": 1}
    shards = deal(n, names, seed=seed, **config)
    assert list(shards) == names
    assert sorted(i for shard in shards.values() for i in shard) == list(range(n))
    assert all(shard == sorted(shard) and all(type(i) is int for i in shard) for shard in shards.values())
    assert shards == deal(n, names, seed=seed, **config)
    assert shards == deal(n, names[::-1], seed=seed, **config), "the order of clients does not matter"


def as_published(scheme, pools, clients, alpha, rng):
    """The first draw of a scheme, by NumPy's own ways to cut an array."""
    if scheme == "iid":
        return [part.tolist() for part in np.array_split(rng.permutation(len(pools[0])), clients)]
    shards = [[] for _ in range(clients)]
    for pool in pools:
        cuts = np.rint(np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * len(pool)).astype(int)
        for shard, part in zip(shards, np.split(rng.permutation(pool), cuts), strict=True):
            shard += part.tolist()
    return shards


@pytest.mark.parametrize("scheme", ["iid", "dirichlet-label", "dirichlet-quantity"])
def test_shares_are_cut_as_numpy_cuts_them(scheme):
    pools = [list(range(101))] if scheme != "dirichlet-label" else [list(range(n, 101, 3)) for n in range(3)]
    found = deal(101, "abcd", seed=7, scheme=scheme, alpha=2.0, min_examples=1)
    wanted = as_published(scheme, pools, 4, 2.0, numpy_generator(7, "partition", "g"))
    assert list(found.values()) == [sorted(shard) for shard in wanted]


def test_rows_are_handed_out_of_one_draw_alone(monkeypatch):
    cut, calls = schemes._cut, []
    monkeypatch.setattr(schemes, "_cut", lambda *args: calls.append(1) or cut(*args))
    with pytest.raises(ConfigError, match="leaves client"):
        deal(60, clients=[f"c{i}" for i in range(50)], scheme="dirichlet-label", alpha=0.1, min_examples=1)
    assert len(calls) == 3  # a cut for each label, though 100 draws were made


def test_seeds_and_groups_differ():
    assert deal(seed=0) != deal(seed=1)
    config = PartitionConfig()
    assert partition([{}] * 50, ["a", "b"], config, [], 0, "g") != partition([{}] * 50, ["a", "b"], config, [], 0, "h")


def test_iid_shards_are_equal_in_size():
    assert sorted(len(shard) for shard in deal(11).values()) == [3, 4, 4]


def label_distance(alpha: float) -> float:
    """Mean total variation of the shards' label shares from the even ones."""
    shards = deal(3000, scheme="dirichlet-label", alpha=alpha, min_examples=1)
    shares = [np.bincount([i % 3 for i in shard], minlength=3) / len(shard) for shard in shards.values()]
    return float(np.mean([np.abs(share - 1 / 3).sum() / 2 for share in shares]))


def test_alpha_sets_the_label_skew():
    assert label_distance(0.1) > 0.3 > 0.1 > label_distance(1000)


def test_quantity_skew_keeps_the_label_shares():
    shards = deal(3000, scheme="dirichlet-quantity", alpha=0.5)
    assert max(map(len, shards.values())) > 1.5 * min(map(len, shards.values()))
    for shard in shards.values():
        assert all(abs(count / len(shard) - 1 / 3) < 0.1 for count in Counter(i % 3 for i in shard).values())


def test_column_keeps_values_whole_and_balances():
    rows = [{"user": user} for user in "a" * 50 + "b" * 30 + "c" * 20 + "d" * 10]
    shards = deal(rows=rows, clients=("p", "q"), scheme="column", column="user")
    users = [{rows[i]["user"] for i in shard} for shard in shards.values()]
    assert sorted(map(sorted, users)) == [["a"], ["b", "c", "d"]] or sorted(map(sorted, users)) == [
        ["a", "d"],
        ["b", "c"],
    ]
    assert users[0].isdisjoint(users[1])
    assert abs(len(shards["p"]) - len(shards["q"])) <= 10


def test_explicit_rows_and_ranges():
    shards = {"a": ["10-12", 3], "b": [0, "1 - 2"], "elsewhere": [0]}
    assert deal(20, ("a", "b"), scheme="explicit", shards=shards) == {"a": [3, 10, 11, 12], "b": [0, 1, 2]}


def test_a_draw_that_starves_a_client_is_drawn_again():
    counts = [min(map(len, deal(60, seed=seed, scheme="dirichlet-quantity", alpha=0.3).values())) for seed in range(20)]
    assert min(counts) >= 2
    loose = {"scheme": "dirichlet-quantity", "alpha": 0.3, "min_examples": 1}
    assert 1 in [min(map(len, deal(60, seed=seed, **loose).values())) for seed in range(40)]


BAD = {
    "too few rows": (
        {"n": 5},
        "partition.min_examples: task group g has 5 training examples for 3 clients, each needs at least 2; use fewer"
        " clients, more data or a smaller partition.min_examples",
    ),
    "starved": (
        {"n": 12, "scheme": "dirichlet-quantity", "alpha": 0.001, "min_examples": 4},
        "partition.scheme: dirichlet-quantity leaves client a of task group g 0 training examples and 1 more client too"
        " few, at least 4 are needed; raise partition.alpha (now 0.001), use fewer clients or more data"
        " or lower partition.min_examples",
    ),
    "no labels": (
        {"labels": [None] * 100, "scheme": "dirichlet-label"},
        "partition.scheme: dirichlet-label needs one class a row, task group g has none; use dirichlet-quantity or iid",
    ),
    "no column": ({"scheme": "column"}, "partition.column: scheme: column needs the name of a column"),
    "unknown column": (
        {"scheme": "column", "column": "users"},
        "partition.column: the data of task group g has no column 'users'; did you mean user?",
    ),
    "few values": (
        {"scheme": "column", "column": "user", "rows": [{"user": i % 2} for i in range(100)]},
        "partition.column: column 'user' has 2 values in task group g, fewer than its 3 clients",
    ),
    "no shards": ({"scheme": "explicit"}, "partition.shards: scheme: explicit needs the rows of every client"),
    "client not named": (
        {"clients": ("phone-1", "b"), "scheme": "explicit", "shards": {"phone1": [0, 1], "b": [2, 3]}},
        "partition.shards: client phone-1 of task group g is not named; did you mean phone1?",
    ),
    "out of range": (
        {"clients": ("a",), "scheme": "explicit", "shards": {"a": ["90-100"]}},
        "partition.shards.a: '90-100' is out of range: task group g has rows 0 to 99",
    ),
    "negative": (
        {"clients": ("a",), "scheme": "explicit", "shards": {"a": [-1]}},
        "partition.shards.a: -1 is out of range: task group g has rows 0 to 99",
    ),
    "overlap": (
        {"clients": ("a", "b"), "scheme": "explicit", "shards": {"a": ["0-5"], "b": [5, 6]}},
        "partition.shards.b: row 5 is named twice, by a and b",
    ),
    "twice": (
        {"clients": ("a",), "scheme": "explicit", "shards": {"a": [5, "4-6"]}},
        "partition.shards.a: row 5 is named twice, by a and a",
    ),
    "not a range": (
        {"clients": ("a",), "scheme": "explicit", "shards": {"a": ["1:5"]}},
        "partition.shards.a: '1:5' is neither a row number nor a range such as '0-99'",
    ),
    "backwards": (
        {"clients": ("a",), "scheme": "explicit", "shards": {"a": ["5-1"]}},
        "partition.shards.a: the range '5-1' ends before it begins",
    ),
    "several not named": (
        {"clients": ("a", "b", "c"), "scheme": "explicit", "shards": {"b": [2, 3]}},
        "partition.shards: clients a, c of task group g are not named; expected one of: b",
    ),
    "empty shard": (
        {"clients": ("a", "b"), "scheme": "explicit", "shards": {"a": [], "b": [5, 6]}},
        "partition.shards.a: leaves 0 training examples, at least 2 are needed; name more rows, or lower"
        " partition.min_examples",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_dealt_is_one_line(case):
    arguments, message = BAD[case]
    with pytest.raises(ConfigError) as caught:
        deal(**arguments)
    assert str(caught.value) == message


MISTAKES = {
    "z": ([0, 0], "partition.shards.z: row 0 is named twice, by z and z"),
    "d": (["3-1"], "partition.shards.d: the range '3-1' ends before it begins"),
    "good": (["10-20"], ""),
    "a": ([5, 100, "99-200"], "partition.shards.a: 100, '99-200' are out of range: task group g has rows 0 to 99"),
    "b": (
        ["18-25", 30, 30, 5],
        "partition.shards.b: 5 rows are named twice, also by good (18-20), itself (30), a (5)",
    ),
    "c": (
        ["x", "9-8", "7-6", "z", "1:2", "3..4", "5;6", "0-98", 13],
        "partition.shards.c: 'x', 'z', '1:2' and 2 more are neither row numbers nor ranges such as '0-99'; the ranges "
        "'9-8', '7-6' end before they begin; 19 rows are named twice, also by z (0), a (5), good (10-20) and 1 more",
    ),
    "e": ([31, 33], "partition.shards.e: 2 rows are named twice, also by c (31, 33)"),
    "f": ([], "partition.shards.f: leaves 0 training examples, at least 2 are needed"),
}


@pytest.mark.parametrize(
    ("left_out", "last"),
    [
        ("ef", []),
        ("f", ["partition.shards: the shard of another client has a mistake, too"]),
        ("", ["partition.shards: the shards of 2 others have mistakes, too"]),
    ],
)
def test_mistakes_of_several_clients_are_a_line_each_in_the_order_of_the_file(left_out, last):
    shards = {name: rows for name, (rows, _) in MISTAKES.items() if name not in left_out}
    with pytest.raises(ConfigError) as caught:
        deal(clients=tuple(sorted(shards)), scheme="explicit", shards=shards)
    assert str(caught.value).splitlines() == [line for _, line in MISTAKES.values() if line][:5] + last


SITES = [{"site": f"s{i % 3}"} for i in (0, 1, 1, 2, 1, 1, 2, 1)] + [{"site": "s1"}] * 4
NAMES = ("s2", "s0", "s1")


def sites(rows, names=NAMES, **config):
    config = {"scheme": "column", "column": "site", "min_examples": 1} | config
    return partition(rows, list(names), PartitionConfig(**config), [], 0, "g")


@pytest.mark.parametrize("unmatched", ["error", "deal", "drop"])
def test_a_client_has_the_rows_of_its_name(unmatched):
    dealt = sites(SITES, unmatched=unmatched)
    assert dealt.shards == {name: [i for i, row in enumerate(SITES) if row["site"] == name] for name in NAMES}
    assert dealt.values == {name: [name] for name in NAMES}
    assert dealt.notes == ["column 'site': each client has the rows of its name: s2 2 rows; s0 1 rows; s1 9 rows"]


def test_a_value_of_each_client_is_looked_up_not_searched_for():
    names = [f"phone-{i}" for i in range(4000)]

    class Names(list):
        def __contains__(self, name):
            raise AssertionError("searched through all clients")

    rows = [{"user": name} for name in names]
    config = PartitionConfig(scheme="column", column="user", min_examples=1)
    rng = np.random.default_rng(0)
    assert by_column(rows, Names(names), config, rng, "g") == {name: [i] for i, name in enumerate(names)}


def test_numbers_as_values_are_names_too():
    rows = [{"site": i % 2} for i in range(8)]
    assert sites(rows, ("1", "0")).shards == {"1": [1, 3, 5, 7], "0": [0, 2, 4, 6]}


def test_where_no_value_is_a_name_the_mapping_is_said():
    dealt = sites(SITES, ("p", "q", "r"))
    assert sorted(dealt.values.values()) == [["s0"], ["s1"], ["s2"]]
    held = {client: found[0] for client, found in dealt.values.items()}
    for client, site in held.items():
        assert dealt.shards[client] == [i for i, row in enumerate(SITES) if row["site"] == site]
    said = "; ".join(f"{client}: {held[client]} ({len(dealt.shards[client])} rows)" for client in "pqr")
    assert dealt.notes == [f"column 'site': no value is a client's name, the others were dealt by size: {said}"]


UNMATCHED = {
    "value without a client": (
        [*SITES, {"site": "s3"}],
        NAMES,
        "1 values (1 rows) are no client of task group g: s3",
    ),
    "client without a value": (SITES, (*NAMES, "s4"), "1 of its clients have no value: s4"),
    "another case": (
        [{"site": f" {row['site'].upper()}"} for row in SITES],
        NAMES,
        "3 values (12 rows) are no client of task group g:  S0,  S1,  S2; 3 of its clients have no value: s0, s1, s2;"
        " ' S0' differs from s0 only in case, white space and Unicode form",
    ),
    "numbers as floats": (
        [{"site": float(i % 2)} for i in range(8)],
        ("0", "1"),
        "2 values (8 rows) are no client of task group g: 0.0, 1.0; 2 of its clients have no value: 0, 1; '0.0' differs"
        " from 0 only in how the number is written",
    ),
}


@pytest.mark.parametrize("case", UNMATCHED)
def test_names_that_match_in_part_are_refused(case):
    rows, names, problem = UNMATCHED[case]
    with pytest.raises(ConfigError) as caught:
        sites(rows, names)
    assert str(caught.value) == (
        f"partition.unmatched: column 'site' names clients, but {problem}; make them match, or set"
        " partition.unmatched: deal (by size) or drop (those rows)"
    )


def test_rows_without_a_value_are_refused_unless_asked_for():
    rows = [*SITES, {"other": 1}, {"site": None}, {"site": " "}]
    with pytest.raises(
        ConfigError, match=r"^partition\.unmatched: 3 of 15 training rows of task group g have no value"
    ):
        sites(rows)
    dropped = sites(rows, unmatched="drop")
    assert dropped.shards == sites(SITES).shards and dropped.unused == 3
    assert dropped.notes[1] == "3 of 15 training rows have a value that is no client's name and are not used"


def test_unmatched_values_are_dealt_or_dropped_when_asked_for():
    rows = [*SITES, *[{"site": "s9"}] * 2, {"site": "s8"}]
    named = sites(SITES).shards
    dealt = sites(rows, (*NAMES, "new"), unmatched="deal")
    assert dealt.shards == {**named, "new": [12, 13, 14]} and dealt.unused == 0
    assert dealt.notes[0].startswith("column 'site': 3 clients have the value of their name, the others were dealt")
    assert sites(rows, unmatched="deal").shards["s0"] == [0, 12, 13], "to the client with the fewest rows"
    dropped = sites(rows, unmatched="drop")
    assert dropped.shards == named and dropped.unused == 3
    with pytest.raises(ConfigError, match=r"^partition\.unmatched: column 'site' has no value for client s4 "):
        sites(rows, (*NAMES, "s4"), unmatched="drop")


def test_explicit_rows_are_those_of_the_source():
    numbered = RowNumbers([0, 2, 3, 5, 6, 9], [1, 4], 10)
    shards = {"a": ["0-4"], "b": [5, 9, 7]}
    config = PartitionConfig(scheme="explicit", shards=shards, min_examples=1)
    dealt = partition([{}] * 6, ["a", "b"], config, [], 0, "g", numbered)
    assert dealt.shards == {"a": [0, 1, 2], "b": [3, 5]} and dealt.unused == 1
    assert dealt.notes == [
        "client a: 2 of the 5 rows that it names are held out to test on (1, 4)",
        "client b: 1 of the 3 rows that it names are left out by data.limit (7)",
        "1 of 6 training rows are named by no client and are not used",
    ]
    none = PartitionConfig(scheme="explicit", shards={"a": [1, 4]}, min_examples=1)
    with pytest.raises(
        ConfigError, match=r"^partition.shards.a: leaves 0 training examples \(2 of the 2 rows that it names are held"
    ):
        partition([{}] * 6, ["a"], none, [], 0, "g", numbered)


@pytest.mark.slow
@given(n=st.integers(1, 60), share=st.floats(0, 0.99), seed=st.integers(0, 9))
def test_local_test_parts(n, share, seed):
    indices = [3 * i for i in range(n)]
    train, test = split_local_test(indices, share, seed, "a")
    assert sorted(train + test) == indices and train == sorted(train) and test == sorted(test)
    assert len(train) >= 1 and len(test) == min(int(n * share + 0.5), n - 1)
    assert (train, test) == split_local_test(indices[::-1], share, seed, "a")


def test_a_client_that_keeps_no_row_to_test_on_draws_nothing(monkeypatch):
    monkeypatch.setattr(schemes, "numpy_generator", None)
    assert split_local_test([5, 2], 0.1, 0, "a") == ([2, 5], [])


def test_local_test_differs_by_client_and_seed():
    cuts = {tuple(split_local_test(range(100), 0.2, seed, client)[1]) for seed in (0, 1) for client in "ab"}
    assert len(cuts) == 4
