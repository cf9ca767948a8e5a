"""Text for an HTML page: neither markup nor characters that would show it in another order."""

from __future__ import annotations

import html

from atlas_cli.printable import printable


def escape(text: str) -> str:
    """``html.escape`` of what ``printable`` makes of the text."""
    return html.escape(printable(text))
