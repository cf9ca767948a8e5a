"""Charts: what they show is where it should be, whatever the values, and can be seen and told apart by everyone."""

import itertools
import re

import pytest

from atlas_cli.reports.charts import palette
from atlas_cli.reports.charts.bars import Bar, bar_chart
from atlas_cli.reports.charts.canvas import WIDTH, shortened
from atlas_cli.reports.charts.cells import UNDER_TEXT, cell_chart
from atlas_cli.reports.charts.lines import Line, line_chart
from atlas_cli.reports.charts.scale import scale

MODES = {"light": palette.LIGHT, "dark": palette.DARK}
GROUPS = [palette.colour_of_group(i) for i in range(palette.GROUP_COLOURS)]
FILLS = ("weights", "activations", "trained", "other", "compute", "upload", "server", "download")
# what a colour looks like to who lacks a kind of cone (Machado, Oliveira and Fernandes 2009, severity 1), in linear RGB
SIGHT = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}


def linear(code):
    values = (int(code[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]


def contrast(one, other):
    """WCAG 2.2's ratio of two colours."""
    bright, dark = sorted(sum(map(float.__mul__, (0.2126, 0.7152, 0.0722), linear(c))) for c in (one, other))[::-1]
    return (bright + 0.05) / (dark + 0.05)


def oklab(rgb):
    to_cones = ((0.41222, 0.53633, 0.05145), (0.2119, 0.6807, 0.1074), (0.0883, 0.28172, 0.62998))
    cones = [max(0.0, sum(w * v for w, v in zip(row, rgb, strict=True))) ** (1 / 3) for row in to_cones]
    to_lab = ((0.21045, 0.79362, -0.00407), (1.978, -2.42859, 0.45059), (0.0259, 0.78277, -0.80868))
    return [sum(w * v for w, v in zip(row, cones, strict=True)) for row in to_lab]


def difference(one, other, sight):
    seen = [oklab([sum(w * v for w, v in zip(row, linear(c), strict=True)) for row in sight]) for c in (one, other)]
    return 100 * sum((a - b) ** 2 for a, b in zip(*seen, strict=True)) ** 0.5


def mixed(code, page, opacity):
    parts = [(int(code[i : i + 2], 16), int(page[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(opacity * a + (1 - opacity) * b):02x}" for a, b in parts)


@pytest.mark.parametrize("mode", MODES)
def test_texts_and_shapes_have_the_contrast_of_wcag_aa(mode):
    colours = MODES[mode]
    for paper in (colours["page"], colours["card"]):
        for ink in ("ink", "muted", "link", "good", "bad"):
            assert contrast(colours[ink], paper) >= 4.5, ink
    for shape in (*GROUPS, *FILLS):
        assert contrast(colours[shape], colours["page"]) >= 3, shape
    for group in GROUPS:  # figures that are written on cells
        assert contrast(colours["ink"], mixed(colours[group], colours["page"], UNDER_TEXT)) >= 4.5, group


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sight", SIGHT)
def test_task_groups_are_told_apart_whatever_cones_one_has(mode, sight):
    for one, other in itertools.combinations(GROUPS, 2):
        assert difference(MODES[mode][one], MODES[mode][other], SIGHT[sight]) > 15


def test_no_colour_means_two_things():
    for colours in MODES.values():
        named = [colours[name] for name in (*GROUPS, *FILLS)]
        assert len(set(named)) == len(named)
    assert palette.LIGHT.keys() == palette.DARK.keys()


def test_bars_are_as_long_as_their_amounts():
    picture = bar_chart(
        [Bar("a", {"weights": 31}, "31"), Bar("b", {"weights": 300, "trained": 45}, "345")], {}, "MB", ""
    )
    widths = [float(w) for w in re.findall(r'<rect [^>]*width="([\d.]+)"', picture)]
    assert widths[0] / (widths[1] + widths[2]) == pytest.approx(31 / 345, abs=0.002)
    assert widths[1] / widths[2] == pytest.approx(300 / 45, rel=0.01)


@pytest.mark.parametrize(
    "values", [[0.5], [0.0, 0.0], [1e-9, 2e-9], [0.01, 0.9], [-3.0, 7.0], [41.0, 1234.5], [1e12, 3e12]]
)
def test_every_value_lies_on_its_axis_and_ticks_are_few(values):
    axis = scale(values, 100.0, 0.0)
    assert all(-1e-6 <= axis(value) <= 100 + 1e-6 for value in values)
    assert 2 <= len(axis.ticks) <= 9
    assert axis.log == (values == [41.0, 1234.5])


def test_rounds_have_whole_ticks():
    assert scale([0, 3], 0, 1, whole=True).ticks == (0, 1, 2, 3)
    assert scale([1], 0, 1, whole=True).ticks == (1,) and scale([1], 0, 1, whole=True)(1) == 0.5
    assert all(tick == int(tick) for tick in scale([0, 997], 0, 1, whole=True).ticks)


def test_a_long_name_keeps_its_ends():
    assert shortened("short", 100) == "short"
    assert shortened("a-very-long-name-of-a-client-17", 90) == "a-ver…ent-17"


def test_lines_and_cells_stay_inside_the_picture():
    line = line_chart([Line("g", [(0.0, 1.0), (9.0, 2.0)], 7)], "round", "loss", "")
    assert all(0 <= float(x) <= WIDTH for x in re.findall(r"[ML]([\d.]+),", line))
    wide = cell_chart([("row", [1.0] * 40)], [str(1000 + i) for i in range(40)], "group-1", "", "round", 1.0)
    last = max(float(x) for x in re.findall(r'<text x="([\d.]+)"[^>]*text-anchor="middle"', wide))
    assert last <= WIDTH - 14, "there is room for four digits"
    cells = cell_chart([("row", [0.0, None, 2.0])], ["a", "b", "c"], "group-1", "", "class", 2.0)
    opacities = [float(o) for o in re.findall(r'fill-opacity="([\d.]+)"', cells)]
    assert opacities == [0.03, UNDER_TEXT]
