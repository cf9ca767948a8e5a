"""Tables for papers: what is a command in LaTeX or Markdown is a character there, and CSV keeps all digits."""

import csv
import io
import re

from atlas_cli.reports.sheets import Column, Sheet, csv_text, in_latex, latex, markdown

NASTY = r"50% & $x_1$ #2 {a}~b^c \cmd <d> |e| [f] *g* -- `h` ± ≥"
SHEET = Sheet(
    "t", "A title_with", [Column("name"), Column("95 %", True)], [(NASTY, 0.123456), ("[b]", None)], ["a note"]
)


def test_latex_has_booktabs_and_every_special_character_escaped():
    lines = latex(SHEET).splitlines()
    assert [line for line in lines if line.endswith("rule")] == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert lines[2] == r"\caption{A title\_with. A note.}" and r"\begin{tabular}{lr}" in lines
    assert r"name & 95 \% \\" in lines and r"{[}b{]} & - \\" in lines
    row = next(line for line in lines if line.startswith("50"))
    assert row == (
        r"50\% \& \$x\_1\$ \#2 \{a\}\textasciitilde{}b\textasciicircum{}c \textbackslash{}cmd "
        r"\textless{}d\textgreater{} \textbar{}e\textbar{} {[}f{]} {*}g{*} -{}- `h` $\pm$ $\geq$ & 0.123 \\"
    )


def test_no_bare_command_is_left_whatever_the_text():
    for code in (*range(32, 127), 0xA0, 0xB1, 0x2264):
        escaped = in_latex(chr(code) * 3)
        rest = re.sub(r"\\[&%$#_{}]|\\text\w+\{\}|\$\\\w+\$|\{[\[\]*]\}|-\{\}", "", escaped)
        assert not re.search(r"[\\&%$#_{}~^]", rest) and "--" not in escaped, (chr(code), escaped)


def test_markdown_escapes_what_would_be_markup():
    row = markdown(SHEET).splitlines()[4]
    assert row.count(" | ") == 1 and r"\|e\|" in row and r"\*g\*" in row and r"x\_1" in row and r"\<d\>" in row


def test_csv_keeps_digits_and_leaves_nothing_empty():
    assert list(csv.reader(io.StringIO(csv_text(SHEET)))) == [["name", "95 %"], [NASTY, "0.123456"], ["[b]", ""]]
