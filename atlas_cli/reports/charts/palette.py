"""The colours of reports: one colour means one thing through a whole report, in light and in dark.

Task groups have hues, with a marker and a dash of their own, so that nobody needs the hue. What is counted in bytes,
in memory as on the wire, has one ramp from dark to light, and time on the virtual clock another. Tests check the
contrast of each against the page (WCAG 2.2) and that groups stay apart for colour-blind readers.
"""

from __future__ import annotations

LIGHT = {
    "page": "#ffffff",
    "card": "#f4f6f8",
    "ink": "#1b1f24",
    "muted": "#57606a",
    "line": "#d0d7de",
    "link": "#0a58ca",
    "good": "#0f6b3a",
    "bad": "#a8320a",
    "group-1": "#2a32f0",
    "group-2": "#ed5400",
    "group-3": "#009e93",
    "group-4": "#a867ff",
    "group-5": "#882b5a",
    "weights": "#25323e",
    "activations": "#567088",
    "trained": "#8293a1",
    "other": "#8a7a5c",
    "compute": "#4a3c00",
    "upload": "#7c6814",
    "server": "#6a6a6a",
    "download": "#a08a3c",
    "wait": "#ffffff",
}
DARK = {
    "page": "#0d1117",
    "card": "#171c24",
    "ink": "#e6edf3",
    "muted": "#9aa4af",
    "line": "#343b44",
    "link": "#79b8ff",
    "good": "#56d48a",
    "bad": "#ffa27a",
    "group-1": "#506eff",
    "group-2": "#f4920c",
    "group-3": "#13f0c1",
    "group-4": "#ba9fff",
    "group-5": "#ee0d82",
    "weights": "#d5e0ea",
    "activations": "#8fa9c0",
    "trained": "#5f7689",
    "other": "#a8987a",
    "compute": "#f0e2a0",
    "upload": "#c4ae50",
    "server": "#9a9a9a",
    "download": "#8d7a2c",
    "wait": "#0d1117",
}
GROUP_COLOURS = 5
SHAPES = (  # what the classes of charts look like
    "svg text{font:12px system-ui,sans-serif;fill:var(--ink)}svg .muted{fill:var(--muted)}"
    "svg .grid{stroke:var(--line)}svg .edge{stroke:var(--page)}svg .outline{stroke:var(--muted)}"
)


def colour_of_group(number: int) -> str:
    """The colour name of the task group at this place; after the last, the first comes again with another dash."""
    return f"group-{number % GROUP_COLOURS + 1}"


def style() -> str:
    """CSS: the colours as variables, light, dark where the reader asks for it, and light again in print."""
    light, dark = (";".join(f"--{name}:{code}" for name, code in mode.items()) for mode in (LIGHT, DARK))
    return (
        f":root{{color-scheme:light dark;{light}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        f"@media print{{:root{{color-scheme:light;{light}}}}}"
        f"{SHAPES}"
    )
