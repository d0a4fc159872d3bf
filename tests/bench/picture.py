"""The picture in docs/performance.md: bars, drawn as SVG by hand, legible on white and on black."""

from collections.abc import Mapping

_LEFT, _BAR, _GAP, _WIDTH, _HIGH = 250, 330, 8, 720, 14
_COLOURS = {"this": "#1a73e8", "sample": "#9aa0a6", "pooled": "#7ba39b", "locked": "#5f6368", "node": "#b5a16a"}
_NAMES = {
    "this": "this function, with its ledger",
    "sample": "sample, no ledger",
    "pooled": "one session for all",
    "locked": "sample, claim and mark",
    "node": "Node.js, no ledger",
}


def picture(medians: Mapping[str, Mapping[str, float]], measures: Mapping[str, str]) -> str:
    """Each measure's bars are drawn to its own scale: the longest is as long as it gets."""
    parts, y = [], 24
    for x, name in zip((10, 190, 315, 455, 605), medians, strict=False):
        parts.append(_bar(x, y - 10, 10, 10, name) + _text(x + 14, y - 1, _NAMES[name]))
    for measure, says in measures.items():
        y += 22
        parts.append(_text(_LEFT - 10, y + _HIGH + 11, says, anchor="end"))
        longest = max(of[measure] for of in medians.values())
        for name, of in medians.items():
            length = of[measure] / longest * _BAR
            figure = f"{of[measure]:.{0 if of[measure] >= 100 else 2}f}"
            parts.append(_bar(_LEFT, y, length, _HIGH, name) + _text(_LEFT + length + 6, y + 11, figure))
            y += _HIGH + 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y + 16}" '
        f'font-family="sans-serif" font-size="11" fill="#808890">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _bar(x: float, y: float, width: float, height: float, name: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width:.1f}" height="{height}" rx="2" fill="{_COLOURS[name]}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{text}</text>'
