"""The look of the pictures that matplotlib draws as files (``--plot``, ``--output``); reports draw their own charts."""

from __future__ import annotations

from typing import Any

# Okabe and Ito's palette, without the yellow that is hard to see on white.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D31", "#4D4D4D")
MARKERS = "osD^vPX*"

STYLE: Any = {
    "svg.hashsalt": "atlas",  # the same run gives the same file
    "svg.fonttype": "path",
    "text.parse_math": False,  # a name with a dollar sign is a name
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
}
