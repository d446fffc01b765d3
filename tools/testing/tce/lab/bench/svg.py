# SPDX-License-Identifier: GPL-2.0
"""Line charts as SVG."""

import math
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 860, 420, 80, 50, 270, 60
_COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#8e5ea2", "#b8860b", "#4d4d4d", "#008b8b", "#d2691e")


def _number(value):
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"


def _ticks(low, high):
    """1, 2 and 5 of each power of ten from below low to above high."""
    ticks = [step * 10.0 ** power for power in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
             for step in (1, 2, 5)]
    first = max((tick for tick in ticks if tick <= low), default=ticks[0])
    last = min((tick for tick in ticks if tick >= high), default=ticks[-1])
    shown = [tick for tick in ticks if first <= tick <= last]
    return shown if last > first else [first, 2 * first]


def chart(title, across, up, series):
    """A chart of {name: {x: y}}; all y are above 0. The x are evenly spaced, the y logarithmic."""
    places = sorted({x for line in series.values() for x in line})
    values = [y for line in series.values() for y in line.values()]
    ticks = _ticks(min(values), max(values))
    low, high = math.log(ticks[0]), math.log(ticks[-1])
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def at_x(x):
        return _LEFT + 20 + places.index(x) * (right - _LEFT - 40) / max(1, len(places) - 1)

    def at_y(y):
        return bottom - (math.log(y) - low) / (high - low) * (bottom - _TOP)

    def text(x, y, words, anchor="middle", more=""):
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(words)}</text>'

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="13">',
           "<!-- SPDX-License-Identifier: GPL-2.0 -->", f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
           text(_LEFT, 24, title, "start", ' font-size="16"')]
    for tick in ticks:
        out.append(f'<line x1="{_LEFT}" x2="{right}" y1="{at_y(tick):.1f}" y2="{at_y(tick):.1f}" stroke="#dddddd"/>')
        out.append(text(_LEFT - 8, at_y(tick) + 4, _number(tick), "end"))
    out += [text(at_x(x), bottom + 20, _number(x)) for x in places]
    out.append(text((_LEFT + right) / 2, bottom + 44, across))
    out.append(text(20, (_TOP + bottom) / 2, up, more=f' transform="rotate(-90 20 {(_TOP + bottom) / 2:.1f})"'))
    for number, (name, line) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        dash = ' stroke-dasharray="6 4"' if "legacy" in name else ""
        points = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in sorted(line.items()))
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        out += [f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3" fill="{colour}"/>' for x, y in sorted(line.items())]
        y = _TOP + 10 + 20 * number
        out.append(f'<line x1="{right + 14}" x2="{right + 40}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"{dash}/>')
        out.append(text(right + 46, y + 4, name, "start"))
    return "\n".join([*out, "</svg>", ""])
