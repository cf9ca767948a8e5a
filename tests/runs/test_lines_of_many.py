"""Lines of many clients say of each what a line of its own would."""

import random

import pytest
from pydantic import ValidationError

from atlas_cli.config.client_names import ClientNames, as_ranges, names_in
from atlas_cli.errors import ResourceError
from atlas_cli.runs.directory import RunDirectory
from atlas_cli.runs.kinds import each_client, line_of_kind
from atlas_cli.runs.schemas import MessageRecord

MESSAGE = {
    "round": 0,
    "client": "c-1",
    "kind": "adapters",
    "direction": "down",
    "messages": 1,
    "bytes": 50,
    "payload_bytes": 40,
    "closed_form_bytes": 40,
}


@pytest.mark.parametrize(
    ("names", "ranges"),
    [
        (["c-1", "c-2", "c-3"], [("c", 1, 3)]),
        (["c-1", "c-3", "c-4", "d"], ["c-1", ("c", 3, 4), "d"]),
        (["c-01", "c-2", "-1", "-2", "c", "-", ""], ["c-01", "c-2", ("", 1, 2), "c", "-", ""]),
        (["a-9", "a-10", "b-11", "a-11"], [("a", 9, 10), "b-11", "a-11"]),
        (["c-0", "c-1", "c-\u0662", "c-\u0663"], ["c-0", "c-1", "c-\u0662", "c-\u0663"]),
        (["1", "-2", "-3"], ["1", ("", 2, 3)]),
        (["x-y-1", "x-y-2", "x--1"], [("x-y", 1, 2), "x--1"]),
        ([], []),
    ],
)
def test_names_that_count_up_are_a_range(names, ranges):
    assert as_ranges(names) == ranges and list(names_in(ranges)) == names


@pytest.mark.parametrize("seed", range(20))
def test_ranges_are_read_as_the_names_they_are_of(seed):
    draw = random.Random(seed)
    names = [name for entry in ("a", "a-1", "b") for name in ClientNames(entry, draw.randint(1, 12))]
    some = [name for name in names if draw.random() < 0.7]
    draw.shuffle(some) if seed % 2 else None
    assert list(names_in(as_ranges(some))) == some
    assert as_ranges(names) == list(dict.fromkeys(as_ranges(names)))


def test_a_line_of_many_is_read_as_one_of_each(tmp_path):
    run, names = RunDirectory.create(tmp_path, "kinds", 0), ["c-1", "c-2", "c-4", "d"]
    run.append("messages.jsonl", [line_of_kind(MESSAGE, names), line_of_kind(MESSAGE, ["e"])])
    assert (
        (run.path / "messages.jsonl")
        .read_text(encoding="utf-8")
        .startswith('{"round": 0, "names": [["c", 1, 2], "c-4", "d"], "count": 4, "kind": "adapters", ')
    )
    read = run.read_lines("messages.jsonl")
    assert read == [MESSAGE | {"client": name} for name in (*names, "e")]
    assert all(list(line) == list(MESSAGE) for line in read)


def test_counts_of_labels_are_in_the_lines_of_round_0_alone():
    lines = [{"round": n, "names": [["c", 1, 3]], "count": 3, "task_group": "g"} for n in (0, 4)]
    columns = {"names": [["c", 1, 3]], "classes": ["x", "y"], "distinct": [2, 0, 1], "places": [1, 0, 0]}
    found = list(each_client(lines, [columns | {"counts": [5, 2, 7]}]))
    assert [line.get("labels") for line in found] == [{"y": 5, "x": 2}, None, {"x": 7}, None, None, None]


@pytest.mark.parametrize(
    "change",
    [
        {"client": None},
        {"client": None, "names": [("c", 1, 3)], "count": 4},
        {"client": None, "names": [("c", 1, 3)], "count": None},
        {"names": [("c", 1, 3)], "count": 3},
        {"count": 1},
    ],
)
def test_a_line_of_nobody_or_of_others_than_it_counts_is_damaged(change, tmp_path):
    with pytest.raises(ValidationError, match="client"):
        MessageRecord.model_validate(MESSAGE | change)
    run = RunDirectory.create(tmp_path, "kinds", 0)
    run.append("messages.jsonl", [MESSAGE | change])
    with pytest.raises(ResourceError, match=r"messages\.jsonl:1 is damaged: .*client"):
        run.read_lines("messages.jsonl")


def damaged(tmp_path, name, record):
    """What is said of a file that has this line."""
    run = RunDirectory.create(tmp_path, "kinds", 0)
    run.append(name, [record])
    with pytest.raises(ResourceError) as caught:
        run.read_lines(name)
    return str(caught.value).removeprefix(str(run.path / name))


@pytest.mark.parametrize(
    ("names", "count", "said"),
    [
        (
            [("c", 1, 10**12)],
            10**12,
            "has 1,000,000,000,000 names, more than the 1,000,000 clients that a run can have",
        ),
        ([("c", 9, 8)], 0, "has a range of names that ends before it begins"),
    ],
)
def test_names_that_no_run_can_have_are_not_written_out(names, count, said, tmp_path):
    line = {**MESSAGE, "client": None, "names": names, "count": count}
    told = damaged(tmp_path, "messages.jsonl", {key: value for key, value in line.items() if value is not None})
    assert told == f":1 is damaged: {said}; restore the file from a copy, or start the experiment anew"


LABELS = {
    "task_group": "g",
    "names": [["c", 1, 3]],
    "classes": ["x", "y"],
    "distinct": [2, 0, 1],
    "places": [1, 0, 0],
    "counts": [5, 2, 7],
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"names": [["c", 1, 2]]}, "has 2 names and 3 numbers in distinct"),
        ({"distinct": [2, 0]}, "has 3 names and 2 numbers in distinct"),
        ({"distinct": [2, 0, 2]}, "has 3 places and 3 counts, where distinct adds up to 4"),
        ({"places": [1, 0]}, "has 2 places and 3 counts, where distinct adds up to 3"),
        ({"places": [1, 0, 0, 0]}, "has 4 places and 3 counts, where distinct adds up to 3"),
        ({"counts": [5, 2]}, "has 3 places and 2 counts, where distinct adds up to 3"),
        ({"places": [1, 2, 0]}, "has place 2 of 2 classes, counted from 0"),
        ({"names": [["c", 3, 1]]}, "has a range of names that ends before it begins"),
    ],
)
def test_columns_of_labels_that_do_not_fit_are_damaged(change, said, tmp_path):
    told = damaged(tmp_path, "labels.jsonl", {**LABELS, **change})
    assert told == f":1 is damaged: {said}; restore the file from a copy, or start the experiment anew"


def test_columns_of_labels_that_fit_are_read(tmp_path):
    run = RunDirectory.create(tmp_path, "kinds", 0)
    run.append("labels.jsonl", [LABELS])
    assert run.read_lines("labels.jsonl")[0]["counts"] == [5, 2, 7]
