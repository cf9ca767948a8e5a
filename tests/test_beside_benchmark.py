"""docs/results/beside-others.md and its pictures are what is on record."""

import pytest
from beside import page, pictures
from beside.record import read


@pytest.fixture(scope="module")
def record():
    return read()


def test_the_page_and_its_pictures_are_what_is_on_record(record):
    assert page.PAGE.read_text(encoding="utf-8") == page.text(record)
    drawn = pictures.all_of(record)
    assert {path: path.read_text(encoding="utf-8") for path in drawn} == drawn
    assert all(f"images/{path.name}" in page.PAGE.read_text(encoding="utf-8") for path in drawn)


def test_figures_on_record_are_medians_of_turns_side_by_side(record):
    for name in page.SAYS.keys() & record.keys():
        part = record[name]
        assert part.figures and all(pictures.model_of(figure) for figure in part.figures)
        assert all(figure.n > 5 and figure.q1 <= figure.median <= figure.q3 for figure in part.figures)
        assert part.conditions["threads"] == 1 and len(part.conditions["load"]) == 2
