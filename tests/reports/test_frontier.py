"""Privacy against use: the worst attack of the worst run, what is lost in paired seeds, and how it is drawn."""

import re

import pytest

from atlas_cli.reports.charts.scatter import Guide, Series, Spot, scatter_chart
from atlas_cli.reports.frontier import Attacked, frontier_points, frontier_sheet
from atlas_cli.reports.frontier_picture import frontier_pictures
from atlas_cli.reports.sheets import markdown


def attack(name, value, spread=0.01, chance=0.1, best=1.0, floor=None):
    low, high = value - spread, min(value + spread, best)
    advantage = min(1.0, max(0.0, (high - chance) / (best - chance)))
    limits = {"chance": chance, "best": best, "floor": floor, "advantage": advantage}
    return {"attack": name, "value": value, "low": low, "high": high, **limits}


def run(seed, use, *attacks, better="higher", **epsilon):
    use = {"g": ("accuracy" if better == "higher" else "perplexity", better, use)}
    return Attacked(seed, f"run-{seed}", use, {"g": 0.25}, attacks, {"g": epsilon}, {"g": 1_500_000 + 1_000_000 * seed})


def seeds(values, found, **epsilon):
    return [run(i, v, attack("a", found), attack("b", found - 0.1), **epsilon) for i, v in enumerate(values)]


PLAIN = ("", "", False, seeds([0.80, 0.81, 0.82], 0.9))


def test_a_run_counts_with_its_worst_attack_and_a_setting_with_its_worst_run():
    # an AUC of 0.8 is 0.6 of what can be gained over a half, and 0.65 of tokens over a tenth is 0.61 of that
    two = [
        run(0, 0.7, attack("auc", 0.8, chance=0.5, spread=0.0), attack("tokens", 0.65, spread=0.0)),
        run(1, 0.6, attack("auc", 0.7, chance=0.5, spread=0.0), attack("tokens", 0.55, spread=0.0, floor=0.28)),
    ]
    _, point = frontier_points([PLAIN, ("noise", "1", False, two)])
    assert (point.attack, point.found) == ("tokens", 0.65)
    assert point.upper == point.lower == pytest.approx(0.55 / 0.9) and point.floor is None
    assert (point.value, point.seeds, point.runs) == (pytest.approx(0.65), [0, 1], ["run-0", "run-1"])


def test_loss_is_of_paired_seeds_and_shown_beyond_its_interval():
    _, even, noisy = frontier_points(
        [
            PLAIN,
            ("d", "even", False, seeds([0.70, 0.71, 0.73], 0.5)),  # 0.10, 0.10, 0.09
            ("d", "noisy", False, seeds([0.70, 0.90, 0.71], 0.5)),  # 0.10, -0.09, 0.11
        ]
    )
    assert even.loss == pytest.approx(0.29 / 3) and even.loss_shown and even.loss_interval[0] > 0
    assert noisy.loss == pytest.approx(0.04) and not noisy.loss_shown and noisy.loss_interval[0] < 0
    assert (even.verdict, noisy.verdict) == ("52 % still found, at a loss", "52 % still found, no loss shown")
    _, missing = frontier_points([PLAIN, ("d", "late", False, [run(1, 0.61, attack("a", 0.5))])])
    assert missing.loss == pytest.approx(0.2)  # against the same seed, not against the mean
    assert missing.loss_shown is None and missing.verdict == "52 % still found; too few seeds for a loss"


def test_a_lower_metric_is_lost_upwards():
    plain = [run(i, 20.0, attack("a", 0.9), better="lower") for i in range(2)]
    worse = [run(i, 30.0, attack("a", 0.9), better="lower") for i in range(2)]
    _, point = frontier_points([("", "", False, plain), ("d", "1", False, worse)])
    assert point.loss == 10.0 and point.loss_shown and point.interval is None


def test_a_defence_is_broken_where_nearly_as_much_is_found():
    """The upper end of its worst attack against the lower end, 0.89, of the best attack on no defence."""
    plain, broken, hides = frontier_points(
        [PLAIN, ("d", "1", False, seeds([0.8] * 3, 0.855)), ("d", "2", False, seeds([0.8] * 3, 0.83))]
    )
    assert broken.still_found == pytest.approx((0.865 - 0.1) / (0.89 - 0.1)) and plain.still_found is None
    assert broken.broken and broken.verdict == "broken: 97 % still found, no loss shown"
    assert not hides.broken and hides.verdict == "94 % still found, no loss shown"


def test_without_an_undefended_run_nothing_is_compared():
    (point,) = frontier_points([("", "", False, []), ("d", "1", False, seeds([0.8] * 3, 0.5))])
    assert (
        point.still_found is None and point.loss is None and point.verdict == "no run without a defence to compare with"
    )


SETTINGS = [
    PLAIN,
    ("noise", "0.1", False, seeds([0.6, 0.62, 0.63], 0.5, activations=3540.2)),
    ("noise", "0.5", False, []),  # none was trained
    ("codec", "int8", True, seeds([0.8, 0.81, 0.82], 0.9)),
]


def test_the_table_names_controls_and_epsilon():
    found = markdown(frontier_sheet(frontier_points(SETTINGS), 1e-5))
    rows = [[*map(str.strip, line.split("|")[2:-1])] for line in found.splitlines() if line.startswith("| g")]
    assert [row[:2] for row in rows] == [["no defence", "-"], ["noise", "0.1"], ["control: codec", "int8"]]
    assert [row[7] for row in rows] == ["-", "3,540 (activations)", "-"]
    assert [row[-2] for row in rows] == ["2.500"] * 3  # of 1.5, 2.5 and 3.5
    assert [row[-1] for row in rows] == [
        "no defence",
        "52 % still found, at a loss",
        "broken: 100 % still found, no loss shown",
    ]
    assert "control: no defence, and there for comparison" in found and "at delta 1e-05" in found


def test_the_picture_says_what_is_broken_and_what_is_no_defence():
    ((name, picture),) = frontier_pictures(frontier_points(SETTINGS))
    assert name == "frontier-g"
    assert "codec (control: no defence)" in picture and "0.1, ε 3,540" in picture
    assert "accuracy on the test part" in picture and "found by the worst attack" in picture
    markers = re.findall(r'<path d="[^"]+" transform="translate\([^g]+?\) scale\(1.3\)" fill="var\(--(.+?)\)"', picture)
    swatches, points = markers[:3], markers[3:]
    assert swatches == ["ink", "group-1", "muted"] and points == ["page", "group-1", "page"]  # hollow: broken


def test_names_of_points_never_cover_each_other_and_places_are_to_scale():
    spots = [Spot(0.5 + 0.001 * i, 0.5, f"point {i}") for i in range(12)]
    picture = scatter_chart([Series("s", spots, "ink", 0)], [Guide("x", 0.0, "least")], "x", "y", "all")
    names = [(float(x), float(y)) for x, y in re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>point', picture)]
    assert 1 <= len(names) < 12
    for i, (x, y) in enumerate(names):
        assert all(abs(x - a) > 7 * 6.4 or abs(y - b) >= 13 for a, b in names[:i])
    places = re.findall(r"translate\(([\d.]+) ([\d.]+)\) scale", picture)[1:]
    ticks = {text: float(y) for y, text in re.findall(r'y="([\d.]+)" text-anchor="end" class="muted">([01])<', picture)}
    assert float(places[0][1]) == pytest.approx((ticks["0"] + ticks["1"]) / 2 - 4, abs=0.2)
