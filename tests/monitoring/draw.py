"""A dashboard as a picture: the tiles of the JSON that Terraform deploys, with series in them."""

from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import Any

from tests.monitoring.series import legend

Series = dict[tuple[str, ...], list[float | None]]
Data = Callable[[Mapping[str, Any]], Series]

_UNIT, _ROW, _GAP = 21, 11, 4  # pixels of a column, of a row, and around a tile
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 34, 34  # within a tile, around its chart
_TEXT, _FAINT, _LINE, _PAPER, _TILE = "#3c4043", "#80868b", "#dadce0", "#f1f3f4", "#ffffff"
_COLOURS = ("#1a73e8", "#e8710a", "#12b5cb", "#9334e6", "#80868b", "#f9ab00", "#188038", "#d01884")
_MEANING = {
    "retried": "#188038",
    "rejected": "#80868b",
    "deferred": "#9334e6",
    "not_now": "#f9ab00",
    "fault": "#d93025",
    "unknown": "#f9ab00",
    "runs: resumed": "#12b5cb",
    "at hand": "#188038",
    "fetched": "#1a73e8",
}


def picture(dashboard: Mapping[str, Any], data: Data, *, caption: str, seconds: float) -> str:
    """An SVG. `data` gives the series of a query, `seconds` is the time that they span."""
    layout = dashboard["mosaicLayout"]
    width = layout["columns"] * _UNIT + 2 * _GAP
    tiles = layout["tiles"]
    head = 46
    height = head + max(tile.get("yPos", 0) + tile["height"] for tile in tiles) * _ROW + 2 * _GAP
    parts = [
        f'<rect width="{width}" height="{height}" rx="8" fill="{_PAPER}"/>',
        _text(14, 24, dashboard["displayName"], size=16, weight="bold"),
        _text(14, 40, caption, fill=_FAINT),
    ]
    for tile in tiles:
        x, y = tile.get("xPos", 0) * _UNIT + 2 * _GAP, head + tile.get("yPos", 0) * _ROW + _GAP
        w, h = tile["width"] * _UNIT - 2 * _GAP, tile["height"] * _ROW - 2 * _GAP
        parts.append(f'<g transform="translate({x},{y})">')
        parts.append(f'<rect width="{w}" height="{h}" rx="6" fill="{_TILE}" stroke="{_LINE}"/>')
        parts.append(_text(12, 20, tile["widget"]["title"], size=12, weight="bold"))
        draw = _scorecard if "scorecard" in tile["widget"] else _chart
        parts += [*draw(tile["widget"], data, w, h, seconds), "</g>"]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="Roboto, Helvetica, Arial, sans-serif" font-size="10">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _scorecard(widget: Mapping[str, Any], data: Data, w: float, h: float, _seconds: float) -> Iterable[str]:
    values = [
        value for line in data(widget["scorecard"]["timeSeriesQuery"]).values() for value in line if value is not None
    ]
    [threshold] = widget["scorecard"]["thresholds"]
    if not values:
        yield _text(w / 2, h / 2 + 10, "no data", size=14, fill=_FAINT, anchor="middle")
        return
    colour = _MEANING["fault"] if values[-1] < threshold["value"] else _MEANING["retried"]
    yield _text(w / 2, h / 2 + 18, f"{values[-1] * 100:.1f} %", size=34, fill=colour, anchor="middle", weight="bold")


def _chart(widget: Mapping[str, Any], data: Data, w: float, h: float, seconds: float) -> Iterable[str]:
    chart = widget["xyChart"]
    drawn: list[tuple[str, str, list[float | None]]] = []  # plot, name, values
    for one in chart["dataSets"]:
        group_by = one["timeSeriesQuery"]["timeSeriesFilter"]["aggregation"].get("groupByFields", [])
        for group, values in data(one["timeSeriesQuery"]).items():
            drawn.append((one["plotType"], legend(one["legendTemplate"], group_by, group), values))
    if not any(value for _, _, values in drawn for value in values):
        drawn = [(plot, name, values) for plot, name, values in drawn if any(value is not None for value in values)]
    bars = [values for plot, _, values in drawn if plot == "STACKED_BAR"]
    stacks = [sum(value or 0 for value in period) for period in zip(*bars, strict=True)]
    lines = [value for plot, _, values in drawn if plot == "LINE" for value in values if value is not None]
    top = _nice(max([*stacks, *lines, 0.0]))
    x0, y0, cw, ch = _LEFT, h - _BOTTOM, w - _LEFT - _RIGHT, h - _TOP - _BOTTOM
    yield from _axes(chart, x0, y0, cw, ch, top, seconds)
    used = [0.0] * len(stacks)
    at = float(_LEFT)
    for number, (plot, name, values) in enumerate(drawn):
        colour = _MEANING.get(name, _COLOURS[number % len(_COLOURS)])
        if plot == "STACKED_BAR":
            yield from _bars(values, used, x0, y0, cw, ch / top, colour)
        else:
            yield from _lines(values, x0, y0, cw, ch / top, colour)
        yield f'<rect x="{at:.0f}" y="{h - 14}" width="8" height="8" rx="2" fill="{colour}"/>'
        yield _text(at + 12, h - 6, name, fill=_TEXT)
        at += 24 + sum(6.4 if letter.isupper() else 5.5 for letter in name)
    if not drawn:
        yield _text(x0 + cw / 2, y0 - ch / 2 + 4, "none", size=12, fill=_FAINT, anchor="middle")


def _axes(
    chart: Mapping[str, Any], x0: float, y0: float, cw: float, ch: float, top: float, seconds: float
) -> Iterable[str]:
    for share in (0.0, 0.5, 1.0):
        y = y0 - share * ch
        yield f'<line x1="{x0}" x2="{x0 + cw}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_LINE}"/>'
        yield _text(x0 - 6, y + 3, f"{top * share:g}", fill=_FAINT, anchor="end")
    yield _text(x0 + cw, _TOP - 14, chart["yAxis"].get("label", ""), fill=_FAINT, anchor="end")
    for quarter in range(5):
        anchor = "middle" if quarter < 4 else "end"
        yield _text(x0 + cw * quarter / 4, y0 + 12, f"{seconds * quarter / 4:.0f} s", fill=_FAINT, anchor=anchor)
    for threshold in chart.get("thresholds", []):
        said, y = f"{threshold['label']}: {threshold['value']} s", y0 - threshold["value"] / top * ch
        if threshold["value"] <= top:
            yield f'<line x1="{x0}" x2="{x0 + cw}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d93025" stroke-dasharray="4 3"/>'
        else:
            yield _text(x0 + cw, _TOP + 9, f"↑ {said}", fill="#d93025", anchor="end")


def _bars(
    values: list[float | None], used: list[float], x0: float, y0: float, cw: float, scale: float, colour: str
) -> Iterable[str]:
    step = cw / len(values)
    for period, value in enumerate(values):
        if value:
            x, high = x0 + period * step + 1, value * scale
            y = y0 - used[period] * scale - high
            yield f'<rect x="{x:.1f}" y="{y:.1f}" width="{step - 2:.1f}" height="{high:.1f}" fill="{colour}"/>'
            used[period] += value


def _lines(values: list[float | None], x0: float, y0: float, cw: float, scale: float, colour: str) -> Iterable[str]:
    step = cw / len(values)
    known = [
        (x0 + (period + 0.5) * step, y0 - value * scale) for period, value in enumerate(values) if value is not None
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in known)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"/>'
    if len(known) == 1:
        yield f'<circle cx="{known[0][0]:.1f}" cy="{known[0][1]:.1f}" r="2" fill="{colour}"/>'


def _nice(highest: float) -> float:
    """The end of an axis: the next round number."""
    power = 1.0
    while power > highest > 0:
        power /= 10
    while power * 10 < highest:
        power *= 10
    return next((power * factor for factor in (1, 2, 3, 4, 5, 6, 8, 10) if power * factor >= highest), 1.0)


def _text(
    x: float, y: float, text: str, *, size: int = 10, fill: str = _TEXT, anchor: str = "start", weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )
