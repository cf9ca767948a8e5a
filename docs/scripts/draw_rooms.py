"""Draw ``development/rooms.svg``: the rooms of the package in their layers, from the contracts and the code.

    python docs/scripts/draw_rooms.py            writes docs/development/rooms.svg
    python docs/scripts/draw_rooms.py --check    exit code 1 where the picture is not what the code says

An arrow is an import that no longer way implies; the text in a box is the first sentence of the room's docstring. Needs
the extra ``dev`` (grimp, which import-linter is made of).
"""

from __future__ import annotations

import ast
import sys
import textwrap
import tomllib
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "development" / "rooms.svg"
PACKAGE = "atlas_cli"
WIDTH, MARGIN, ROW, BOX, GAP = 1080, 20, 112, 72, 24
STYLE = """
text { font: 12px system-ui, "Segoe UI", sans-serif; fill: #1f2933; }
.name { font-weight: 600; font-size: 14px; }
.box { fill: #eef3f8; stroke: #4a6785; }
.ground { fill: #f5f1e6; stroke: #8a7a4d; }
.arrow { fill: none; stroke: #4a6785; stroke-opacity: .55; }
"""


def layers() -> list[list[str]]:
    """The rooms of each layer, from the top down, as the contract names them; files of the ground are one room.

    A file above all rooms (``__main__``) is left out: it hands over to the one below.
    """
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (c for c in settings["tool"]["importlinter"]["contracts"] if c["id"] == "rooms")
    rows = [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]
    rooms = [row for row in rows if all((ROOT / PACKAGE / name).is_dir() for name in row)]
    ground = rows[rows.index(rooms[-1]) + 1 :]
    return [*rooms, [" ".join(name for row in ground for name in row)]]


def arrows(rows: list[list[str]]) -> list[tuple[str, str]]:
    """Imports between rooms, less those that a way over other rooms implies."""
    graph, ground = grimp.build_graph(PACKAGE, cache_dir=None), rows[-1][0]
    room = {name: name for row in rows[:-1] for name in row} | {name: ground for name in ground.split()}
    below: dict[str, set[str]] = {name: set() for row in rows for name in row}
    for module in graph.modules - {PACKAGE}:
        for imported in graph.find_modules_directly_imported_by(module) - {PACKAGE}:
            if (importer := module.split(".")[1]) in room:
                below[room[importer]].add(room[imported.split(".")[1]])
    reached: dict[str, set[str]] = {}
    for row in reversed(rows):
        for name in row:
            below[name].discard(name)
            reached[name] = below[name].union(*(reached[other] for other in below[name]))
    return [
        (name, other)
        for name in below
        for other in sorted(below[name])
        if not any(other in reached[between] for between in below[name] - {other})
    ]


def says(room: str) -> str:
    """What a room is for: the first sentence of its docstring, without markup."""
    tree = ast.parse((ROOT / PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
    text = " ".join((ast.get_docstring(tree) or "").split()).replace("``", "")
    return text.split(". ")[0].rstrip(".")


def draw() -> str:
    """The picture as SVG text."""
    rows = layers()
    place: dict[str, tuple[float, float, float]] = {}  # left, top, width
    boxes = []
    for i, row in enumerate(rows):
        top, width = MARGIN + i * ROW, (WIDTH - 2 * MARGIN - (len(row) - 1) * GAP) / len(row)
        width = min(width, 420) if i < len(rows) - 1 else width
        left = (WIDTH - len(row) * width - (len(row) - 1) * GAP) / 2
        for name in row:
            place[name] = left, top, width
            boxes.append(_box(name, left, top, width, i == len(rows) - 1))
            left += width + GAP
    lines = [_arrow(place[a], place[b], a, b, ends) for a, b, ends in _fans(rows, place)]
    height = 2 * MARGIN + (len(rows) - 1) * ROW + BOX
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="The rooms of {PACKAGE} in layers; every import runs downwards">'
    )
    tip = '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    tip += '<path d="M0 0 8 4 0 8z" fill="#4a6785"/></marker>'
    back = f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, f"<style>{STYLE}</style>", f"<defs>{tip}</defs>", back, *lines, *boxes, "</svg>", ""])


def _fans(
    rows: list[list[str]], place: dict[str, tuple[float, float, float]]
) -> list[tuple[str, str, tuple[float, float]]]:
    """Each arrow with how far along its boxes' edges it leaves and arrives, so that arrows do not share a point."""
    found = arrows(rows)

    def share(ends: list[str], end: str) -> float:
        order = sorted(ends, key=lambda name: (place[name][0] + place[name][2] / 2, place[name][1]))
        return (order.index(end) + 1) / (len(order) + 1)

    return [
        (a, b, (share([y for x, y in found if x == a], b), share([x for x, y in found if y == b], a))) for a, b in found
    ]


def _arrow(
    upper: tuple[float, float, float], lower: tuple[float, float, float], a: str, b: str, ends: tuple[float, float]
) -> str:
    x, y = upper[0] + ends[0] * upper[2], upper[1] + BOX
    to_x, to_y = lower[0] + ends[1] * lower[2], lower[1]
    bend = (to_y - y) / 2
    title = f"<title>{escape(a)} imports {escape(b)}</title>"
    path = f"M{x:.0f} {y:.0f}C{x:.0f} {y + bend:.0f} {to_x:.0f} {to_y - bend:.0f} {to_x:.0f} {to_y:.0f}"
    return f'<path class="arrow" marker-end="url(#tip)" d="{path}">{title}</path>'


def _box(name: str, left: float, top: float, width: float, ground: bool) -> str:
    title, text = ("the ground", name.replace(" ", ", ")) if ground else (f"{name}/", says(name))
    lines = textwrap.wrap(text, int(width / 6.4))[:3]
    parts = [f'<text class="name" x="{left + 12:.0f}" y="{top + 20:.0f}">{escape(title)}</text>']
    for i, line in enumerate(lines):
        parts.append(f'<text x="{left + 12:.0f}" y="{top + 37 + 14 * i:.0f}">{escape(line)}</text>')
    kind = "ground" if ground else "box"
    box = f'<rect class="{kind}" x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{BOX}" rx="6"/>'
    return "\n".join([box, *parts])


def main(arguments: list[str]) -> int:
    """Write the picture, or with ``--check`` compare it."""
    if arguments == ["--check"]:
        return int(PICTURE.read_text(encoding="utf-8") != draw())
    PICTURE.write_text(draw(), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
