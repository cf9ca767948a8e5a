"""Charts as inline SVG that follows the page's light or dark colours: no script, no font, nothing to load."""
