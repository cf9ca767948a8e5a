"""A test of a corpus, for its author's own tests: ``conformance.check("my-letters")``."""

from __future__ import annotations

from atlas_cli import discovery
from atlas_cli.data.corpora import CorpusRows, corpus, corpus_rows


def check(name: str) -> CorpusRows:
    """Read a corpus twice, fetched where it is not cached, and hold its rows against what it says of them; gives them.

    Raises:
        AssertionError: says what does not hold.
        AtlasError: the corpus breaks its contract, or cannot be fetched.
    """
    found, rows = corpus(name), corpus_rows(name)
    train, test, _ = rows
    assert rows == corpus_rows(name), "rows, or their order, differ from one read to the next"
    assert train, "there are no training rows"
    assert found.licence.strip(), "it does not say its licence"
    assert found.train in (None, len(train)), f"there are {len(train)} training rows, and it says {found.train}"
    assert found.test == (None if test is None else len(test)), f"it says that there are {found.test} test rows"
    task = discovery.load("tasks", found.task).Task
    for row in (*train, *(test or ())):
        lacking = [column for column in (*task.fields, found.split_by) if column and not row.get(column)]
        assert not lacking, f"a row has no {lacking[0]}: {row!r:.80}"
    if found.classes:
        classes, others = ({label for row in part for label in task.labels_in(row)} for part in (train, test or []))
        assert len(classes) == found.classes, f"there are {len(classes)} classes, and it says {found.classes}"
        assert others <= classes, f"only the test part has {sorted(others - classes)}"
    return rows
