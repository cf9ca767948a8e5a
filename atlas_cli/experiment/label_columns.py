"""How often each class is a label of a client's training rows: as counts of one client, and as columns of a million."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np

from atlas_cli.data.class_names import count_labels
from atlas_cli.data.prepare import PreparedGroup
from atlas_cli.federation.federation import Federation


def labels_of(group: PreparedGroup, client: str) -> dict[str, int]:
    """The counts of one client, the classes of its first rows first; empty where the task has no classes."""
    if not group.task.has_classes:
        return {}
    rows = {feature["row"] for feature in group.train[client]}
    return dict(count_labels([group.data.train[row] for row in sorted(rows)], group.task.labels_in))


def label_columns(federation: Federation) -> Iterator[dict[str, object]]:
    """Lines of labels.jsonl: the counts of all clients of each task group whose task has classes."""
    for name in federation.group_names:
        if (group := federation.data[name]).task.has_classes:
            yield {"task_group": name, "names": federation.plan.ranges(name), **_columns(group)}


def _columns(group: PreparedGroup) -> dict[str, object]:
    """The counts of all clients, with the classes of each in the order in which its rows have them."""
    in_row = list(map(group.task.labels_in, group.data.train))
    many, flat = np.fromiter(map(len, in_row), np.intp, len(in_row)), list(chain.from_iterable(in_row))
    numbers = {label: number for number, label in enumerate(dict.fromkeys(flat))}
    labels = np.fromiter(map(numbers.__getitem__, flat), np.intp, len(flat))
    # a client's distinct rows, ascending, one client after the other
    trained = list(group.training_rows())
    held = np.fromiter(map(len, trained), np.intp, len(trained))
    rows = np.fromiter(chain.from_iterable(trained), np.intp, held.sum())
    pairs = np.sort(np.repeat(np.arange(len(held)), held) * len(in_row) + rows)
    clients, rows = np.divmod(pairs[np.append(True, np.diff(pairs) > 0)], len(in_row))
    # the labels of each of these rows, one row after the other
    times = many[rows]
    begins = (np.cumsum(many) - many)[rows] - (np.cumsum(times) - times)
    found = labels[np.repeat(begins, times) + np.arange(times.sum())]
    ids, firsts, counts = np.unique(
        np.repeat(clients, times) * len(numbers) + found, return_index=True, return_counts=True
    )
    in_turn = np.argsort(firsts)
    clients, places = np.divmod(ids[in_turn], max(len(numbers), 1))
    named, turns = list(numbers), {number: turn for turn, number in enumerate(dict.fromkeys(places.tolist()))}
    return {
        "classes": [named[number] for number in turns],
        "distinct": np.bincount(clients, minlength=len(held)).tolist(),
        "places": list(map(turns.__getitem__, places.tolist())),
        "counts": counts[in_turn].tolist(),
    }
