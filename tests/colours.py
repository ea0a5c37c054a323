"""Whether a page's colours can be told apart, as its style sheet writes them."""

from __future__ import annotations

import re
from pathlib import Path


def colours_of(style: Path) -> dict[str, tuple[str, str]]:
    """A style sheet's named colours: each one's light and dark, as `#rrggbb`."""
    return {
        name: (light, dark)
        for name, light, dark in re.findall(
            r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\);", style.read_text("utf-8")
        )
    }


def contrast(one: str, other: str) -> float:
    """Source: WCAG 2.2, "contrast ratio" and "relative luminance"."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
