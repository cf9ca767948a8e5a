"""Tables that fit: figures are whole at any width, and what is left out is named."""

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_cli.reports.fitted import Column, fitted_table
from atlas_cli.reports.terminal import Terminal

COLUMNS = [
    Column("client", ["phone-1", "laptop-with-a-long-name-and-more-of-it"], folds=True),
    Column("up,\nMB", ["1,234.5", "0.25"], right=True),
    Column("licence", ["MIT", "Apache-2.0"], spare=1),
    Column("seconds", ["123,456", "7"], right=True, spare=2),
]


def shown(columns, width, **how):
    console = Terminal(file=StringIO(), width=width)
    console.print(fitted_table(columns, width, **how))
    return console.file.getvalue()


@given(width=st.integers(26, 120))
def test_no_figure_is_cut_and_what_is_left_out_is_named(width):
    text = shown(COLUMNS, width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    flat = " ".join(text.split())
    for column in COLUMNS[1:]:
        whole = all(cell in text for cell in column.cells)
        assert whole != (column.name in flat.partition("left out for the width of")[2])
    assert "".join(line[:16].strip() for line in text.splitlines()).count("laptop-with-a-lo") == 1


def test_the_most_spare_goes_first_and_nothing_else_before_it():
    assert "seconds" not in shown(COLUMNS, 40).split("left out")[0] and "Apache-2.0" in shown(COLUMNS, 40)
    assert "left out" not in shown(COLUMNS, 70)


@pytest.mark.parametrize("bold", [None, 1])
def test_without_rows_it_is_its_headings(bold):
    assert "client" in shown([Column("client", [])], 80, bold=bold)
