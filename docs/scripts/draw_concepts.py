"""Draw the pictures of the pages on concepts, each for light and for dark pages.

python docs/scripts/draw_concepts.py            writes docs/images/NAME-light.svg and NAME-dark.svg
python docs/scripts/draw_concepts.py --check    exit code 1 where a picture is not what this file draws
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from html import escape
from pathlib import Path

IMAGES = Path(__file__).resolve().parents[1] / "images"
SCHEMES = {
    "light": {
        "ink": "#1f2933",
        "soft": "#5a6b7b",
        "client": "#dbeafe",
        "server": "#fde8c8",
        "sent": "#d8f0dd",
        "line": "#8796a5",
    },
    "dark": {
        "ink": "#e6ebf0",
        "soft": "#a3b1bf",
        "client": "#1d3a5f",
        "server": "#5a3f14",
        "sent": "#1f4a2c",
        "line": "#6b7a89",
    },
}


class Drawing:
    """Boxes, arrows and texts on a sheet; colours are names of a scheme."""

    def __init__(self, width: int, height: int, says: str) -> None:
        self.width, self.height, self.says = width, height, says
        self.parts: list[str] = []

    def box(
        self, left: int, top: int, width: int, height: int, title: str, text: str = "", fill: str = "client"
    ) -> None:
        """A box with a title, and small text that is wrapped."""
        self.parts.append(
            f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="6" fill="{{{fill}}}" stroke="{{line}}"/>'
        )
        self.text(left + 10, top + 20, title, bold=True)
        for i, line in enumerate(textwrap.wrap(text, max(1, int((width - 16) / 6.9)))):
            self.text(left + 10, top + 38 + 15 * i, line, soft=True)

    def text(self, x: int, y: int, text: str, *, bold: bool = False, soft: bool = False, anchor: str = "start") -> None:
        """One line of text."""
        weight, ink, size = ("600" if bold else "400"), ("{soft}" if soft else "{ink}"), (13 if bold else 12)
        self.parts.append(
            f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{ink}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def arrow(self, x: int, y: int, to_x: int, to_y: int, text: str = "", *, above: bool = True) -> None:
        """An arrow, with text over or under its middle."""
        self.parts.append(
            f'<path d="M{x} {y}L{to_x} {to_y}" stroke="{{soft}}" stroke-width="1.5" marker-end="url(#tip)"/>'
        )
        if text:
            self.text((x + to_x) // 2, (y + to_y) // 2 + (-7 if above else 17), text, anchor="middle")

    def svg(self, scheme: dict[str, str]) -> str:
        """The picture in one scheme."""
        body = "\n".join(self.parts)
        for name, colour in scheme.items():
            body = body.replace(f"{{{name}}}", colour)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(self.says)}" font-family="system-ui, Segoe UI, sans-serif">\n'
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
            ' orient="auto">'
            f'<path d="M0 0 8 4 0 8z" fill="{scheme["soft"]}"/></marker></defs>\n{body}\n</svg>\n'
        )


def split() -> Drawing:
    """One local step through the cut, and the unsplit model beside it."""
    d = Drawing(
        760,
        330,
        "A local step through the split, and the same step of the unsplit model, whose loss and gradients are equal",
    )
    d.text(10, 20, "Through the split", bold=True)
    d.box(
        10,
        34,
        250,
        84,
        "client half",
        "Blocks below the cut, frozen, with the client's LoRA adapters. The text stays here.",
    )
    d.box(
        500,
        34,
        250,
        84,
        "server half",
        "Blocks above the cut, and the head of the task group. Computes the loss.",
        "server",
    )
    d.arrow(262, 62, 498, 62, "activations, labels")
    d.arrow(498, 98, 262, 98, "gradients of the activations", above=False)
    d.text(10, 160, "Unsplit", bold=True)
    d.box(
        10,
        174,
        740,
        60,
        "the whole model",
        "Hugging Face's own forward and backward, with the same adapters and head, on the same examples.",
        "sent",
    )
    d.text(380, 266, "loss = loss, gradient = gradient, for every trained parameter", bold=True, anchor="middle")
    d.text(380, 286, "largest difference above 1e-6 (float32): nothing is trained", soft=True, anchor="middle")
    d.text(
        380,
        310,
        "Checked before every run, at every split layer and dtype in use, and by atlas verify",
        soft=True,
        anchor="middle",
    )
    return d


def merging() -> Drawing:
    """Unequal ranks meet in one update of the group, and leave at each client's rank."""
    d = Drawing(
        760,
        320,
        "Clients of ranks 4, 8 and 16 send adapters; the server merges updates and delivers at each rank",
    )
    for i, (rank, height) in enumerate(((4, 22), (8, 40), (16, 72))):
        top = (20, 100, 206)[i]
        d.box(10, top, 150, max(height, 40), f"client, rank {rank}", "", "client")
        d.parts.append(
            f'<rect x="172" y="{top}" width="60" height="{height}" rx="3" fill="{{sent}}" stroke="{{line}}"/>'
        )
        d.text(202, top + height // 2 + 4, "A, B", anchor="middle")
        d.arrow(238, top + height // 2, 318, 150 + (i - 1) * 14)
        d.arrow(548, 150 + (i - 1) * 14, 618, top + height // 2)
        d.parts.append(
            f'<rect x="622" y="{top}" width="60" height="{height}" rx="3" fill="{{sent}}" stroke="{{line}}"/>'
        )
        d.text(692, top + height // 2 + 4, f"rank {rank}")
    d.box(
        320,
        96,
        226,
        110,
        "server",
        "Merges updates w s B A by the method's rule. A client of rank r gets what fits rank r.",
        "server",
    )
    d.text(433, 236, "merge error = distance of what was", anchor="middle", soft=True)
    d.text(433, 252, "delivered from the exact sum", anchor="middle", soft=True)
    d.text(433, 276, "= lost by cutting ranks, and by the method's rule", anchor="middle", soft=True)
    d.text(202, 306, "sent up", anchor="middle", soft=True)
    d.text(652, 306, "delivered", anchor="middle", soft=True)
    return d


def clock() -> Drawing:
    """A round of a phone and a laptop on the virtual clock."""
    d = Drawing(760, 250, "A round on the virtual clock: the laptop waits for the phone in every local step")
    d.text(10, 20, "Two local steps and the merge, with server_update: pooled", bold=True)
    kinds = {
        "f": ("forward", "client"),
        "u": ("up", "sent"),
        "s": ("server", "server"),
        "d": ("down", "sent"),
        "b": ("backward", "client"),
    }
    plan = {
        "phone": [
            ("f", 60),
            ("u", 80),
            ("s", 26),
            ("d", 34),
            ("b", 60),
            ("f", 60),
            ("u", 80),
            ("s", 26),
            ("d", 34),
            ("b", 60),
        ],
        "laptop": [
            ("f", 16),
            ("u", 30),
            ("s", 26),
            ("d", 14),
            ("b", 16),
            ("w", 158),
            ("f", 16),
            ("u", 30),
            ("s", 26),
            ("d", 14),
            ("b", 16),
            ("w", 158),
        ],
    }
    for row, (name, pieces) in enumerate(plan.items()):
        top, x = 44 + row * 62, 76
        d.text(10, top + 22, name)
        for kind, width in pieces:
            if kind == "w":
                d.text(x + width // 2, top + 22, "waits", soft=True, anchor="middle")
                d.parts.append(
                    f'<path d="M{x + 4} {top + 28}H{x + width - 4}" stroke="{{soft}}" stroke-dasharray="3 4"/>'
                )
            else:
                word, fill = kinds[kind]
                d.parts.append(
                    f'<rect x="{x}" y="{top}" width="{width}" height="34" fill="{{{fill}}}" stroke="{{line}}"/>'
                )
                if width >= 50:
                    d.text(x + width // 2, top + 21, word, anchor="middle")
            x += width
    d.box(604, 44, 146, 96, "merge", "Adapters go up. A group is merged when its last has come.", "server")
    d.arrow(76, 176, 740, 176, "virtual seconds", above=False)
    for i, (fill, word) in enumerate(
        (("client", "client computes"), ("sent", "message on the link"), ("server", "server computes"))
    ):
        d.parts.append(f'<rect x="{76 + i * 190}" y="212" width="16" height="16" fill="{{{fill}}}" stroke="{{line}}"/>')
        d.text(98 + i * 190, 225, word)
    return d


def memory() -> Drawing:
    """What a client holds in a step, beside the whole model."""
    d = Drawing(760, 270, "What a client holds in a training step, beside full fine-tuning of the whole model")
    rows = {
        "client of the split": [
            ("frozen half", 170, "client"),
            ("adapters", 66, "sent"),
            ("saved for backward", 120, "server"),
            ("cut", 34, "sent"),
        ],
        "unsplit LoRA": [("frozen model", 300, "client"), ("", 30, "sent"), ("saved for backward", 200, "server")],
        "full fine-tuning": [
            ("weights", 160, "client"),
            ("gradients", 140, "sent"),
            ("moments, twice the weights", 190, "sent"),
            ("saved", 100, "server"),
        ],
    }
    for row, (name, pieces) in enumerate(rows.items()):
        top, x = 20 + row * 66, 130
        d.text(10, top + 24, name)
        for word, width, fill in pieces:
            d.parts.append(f'<rect x="{x}" y="{top}" width="{width}" height="38" fill="{{{fill}}}" stroke="{{line}}"/>')
            if word:
                d.text(x + width // 2, top + 23, word, anchor="middle")
            x += width
    d.text(
        10,
        234,
        "Not to scale. memory.json of a run has the measured bytes of every part; atlas validate and",
        soft=True,
    )
    d.text(10, 252, "atlas memory-report predict them from shapes, without weights.", soft=True)
    return d


def privacy() -> Drawing:
    """The channels by which something leaves a client, and what bounds each."""
    d = Drawing(760, 330, "Four channels leave a client; each has an epsilon of its own, or infinity")
    d.box(10, 20, 150, 286, "client", "Texts, labels, token ids stay here, unless a channel carries them.", "client")
    d.box(
        600,
        20,
        150,
        286,
        "others",
        "The server, who reads the wire, other clients: each sees what its channels carry.",
        "server",
    )
    rows = [
        ("activations", "privacy.activations: clip and noise per token", "unit: the words of an example"),
        ("labels", "privacy.labels: randomised response", "unit: a label"),
        ("updates", "privacy.updates, or privacy.examples (DP-SGD)", "unit: a client, or an example"),
        ("fingerprints", "privacy.fingerprints: clip and noise", "unit: a client"),
    ]
    for i, (name, key, unit) in enumerate(rows):
        y = 62 + i * 66
        d.arrow(162, y, 598, y)
        d.text(176, y - 10, name, bold=True)
        d.text(276, y - 10, key)
        d.text(276, y + 18, unit + "; off: epsilon infinite", soft=True)
    return d


def partitions() -> Drawing:
    """What each scheme gives four clients of 120 rows of three classes, as ``atlas train`` deals them with seed 0."""
    from atlas_cli.config.schema.partition import PartitionConfig
    from atlas_cli.data.partitions.schemes import partition

    sites = [site for site, rows in (("north", 54), ("south", 36), ("east", 20), ("west", 10)) for _ in range(rows)]
    fills = ("client", "server", "sent")
    rows = [{"label": fills[i * 7 // 3 % 3], "site": site} for i, site in enumerate(sites)]
    shards: dict[str, list[int | str]] = {"a": ["0-19"], "b": ["20-49"], "c": ["60-109"], "d": ["110-119"]}
    panels = [
        (PartitionConfig(scheme="iid"), "abcd", "Equal numbers, drawn at random."),
        (PartitionConfig(scheme="dirichlet-label", alpha=0.5), "abcd", "Skewed shares of each class."),
        (
            PartitionConfig(scheme="dirichlet-quantity", alpha=0.5),
            "abcd",
            "Skewed numbers, classes alike.",
        ),
        (
            PartitionConfig(scheme="column", column="site"),
            ("north", "south", "east", "west"),
            "By a column, here site.",
        ),
        (PartitionConfig(scheme="explicit", shards=shards), "abcd", "The rows that you name."),
    ]
    d = Drawing(760, 330, "What five partition schemes give four clients of the same 120 rows of three classes")
    for i, (config, clients, says) in enumerate(panels):
        left, top = 10 + i % 3 * 256, 20 + i // 3 * 160
        d.text(left, top, f"scheme: {config.scheme}", bold=True)
        dealt = partition(rows, list(clients), config, [row["label"] for row in rows], 0, "questions").shards
        for j, client in enumerate(clients):
            d.text(left, top + 26 + j * 24, client)
            x = left + 42
            for fill in fills:
                width = 2 * sum(rows[number]["label"] == fill for number in dealt[client])
                d.parts.append(
                    f'<rect x="{x}" y="{top + 12 + j * 24}" width="{width}" height="18" fill="{{{fill}}}"'
                    ' stroke="{line}"/>'
                )
                x += width
        d.text(left, top + 124, says, soft=True)
    for i, fill in enumerate(fills):
        d.parts.append(f'<rect x="522" y="{200 + i * 26}" width="16" height="16" fill="{{{fill}}}" stroke="{{line}}"/>')
        d.text(546, 213 + i * 26, f"class {i + 1}")
    d.text(522, 290, "A bar is a client, as long as it has rows.", soft=True)
    return d


DRAWINGS: dict[str, Callable[[], Drawing]] = {
    "split": split,
    "merging": merging,
    "clock": clock,
    "memory": memory,
    "privacy": privacy,
    "partitions": partitions,
}


def main(arguments: list[str]) -> int:
    """Write all pictures, or with ``--check`` compare them."""
    IMAGES.mkdir(exist_ok=True)
    stale = 0
    for name, draw in DRAWINGS.items():
        for scheme, colours in SCHEMES.items():
            file, text = IMAGES / f"{name}-{scheme}.svg", draw().svg(colours)
            if arguments != ["--check"]:
                file.write_text(text, encoding="utf-8", newline="\n")
            elif not file.exists() or file.read_text(encoding="utf-8") != text:
                print(f"docs/images/{file.name} is out of date: python docs/scripts/draw_concepts.py")
                stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
