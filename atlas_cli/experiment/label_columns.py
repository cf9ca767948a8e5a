"""How often each class is a label of a client's training rows: as counts of one client, and as columns of a million."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain

from atlas_cli.config.client_names import as_ranges
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
        group = federation.data[name]
        if not group.task.has_classes:
            continue
        in_row = [group.task.labels_in(row) for row in group.data.train]
        classes: dict[str, int] = {}
        distinct, places, counts = list[int](), list[int](), list[int]()
        for features in group.train.values():
            if len(features) == 1 and len(labels := in_row[features[0]["row"]]) == 1:  # so are most of a million
                distinct.append(1)
                places.append(classes.setdefault(labels[0], len(classes)))
                counts.append(1)
                continue
            rows = sorted({feature["row"] for feature in features})
            found = Counter(chain.from_iterable(in_row[row] for row in rows))
            distinct.append(len(found))
            places += [classes.setdefault(label, len(classes)) for label in found]
            counts += found.values()
        yield {
            "task_group": name,
            "names": as_ranges(group.train),
            "classes": list(classes),
            "distinct": distinct,
            "places": places,
            "counts": counts,
        }
