"""Draw docs/img/call.svg: one call, front to back, and the process wall.

python docs/pictures/call.py
"""

from __future__ import annotations

from html import escape
from pathlib import Path

TARGET = Path(__file__).parent.parent / "img" / "call.svg"

INK, PALE, HERE, THERE, WALL = "#1b3a38", "#5d7573", "#d9efec", "#fdeccb", "#b5483a"

# (x, y, width, title, what it does, whether it is behind the wall)
BOXES = [
    (20, 70, 150, "pmap(fn, items)", "checked and named", False),
    (200, 70, 170, "first items run here", "timed, results kept", False),
    (400, 70, 170, "serial or parallel?", "two times compared", False),
    (200, 190, 170, "the rest, here", "at the speed of map", False),
    (400, 190, 170, "chunks are cut", "by time, not by count", False),
    (640, 190, 170, "warm workers", "each item, each outcome", True),
    (20, 310, 150, "your for loop", "in order, as map", False),
    (400, 310, 170, "put in order", "what died is run again", False),
]
HEIGHT = 58

# (path, label, x and y of the label)
ARROWS = [
    ("M170 99 H192", "", 0, 0),
    ("M370 99 H392", "", 0, 0),
    ("M455 128 V160 H285 V182", "serial", 350, 153),
    ("M515 128 V182", "parallel", 524, 160),
    ("M570 210 H632", "", 0, 0),
    ("M725 248 V339 H578", "results, errors", 622, 331),
    ("M400 339 H178", "", 0, 0),
    ("M285 248 V326 H178", "", 0, 0),
    ("M230 128 V160 H95 V302", "the first results", 106, 152),
]


def box(x: int, y: int, width: int, title: str, note: str, away: bool) -> str:
    fill = THERE if away else HERE
    middle = x + width / 2
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{HEIGHT}" rx="8" fill="{fill}" stroke="{INK}"/>'
        f'<text x="{middle}" y="{y + 25}" class="title">{escape(title)}</text>'
        f'<text x="{middle}" y="{y + 44}" class="note">{escape(note)}</text>'
    )


def arrow(path: str, label: str, x: int, y: int) -> str:
    drawn = (
        f'<path d="{path}" fill="none" stroke="{INK}" stroke-width="1.5" marker-end="url(#head)"/>'
    )
    return drawn + (f'<text x="{x}" y="{y}" class="label">{escape(label)}</text>' if label else "")


def picture() -> str:
    shapes = [arrow(*each) for each in ARROWS] + [box(*each) for each in BOXES]
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 830 400" role="img"
 font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif">
<title>One call of pmap, front to back</title>
<style>.title{{font-size:13.5px;font-weight:600;fill:{INK};text-anchor:middle}}
.note{{font-size:12px;fill:{PALE};text-anchor:middle}}
.label{{font-size:12.5px;fill:{PALE}}} .side{{font-size:13px;fill:{PALE};letter-spacing:.06em}}</style>
<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"
 orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="{INK}"/></marker></defs>
<rect width="830" height="400" rx="10" fill="#ffffff"/>
<text x="20" y="36" class="side">YOUR PROCESS</text>
<text x="640" y="36" class="side">OTHER PROCESSES</text>
<path d="M605 18 V382" stroke="{WALL}" stroke-width="3" stroke-dasharray="9 6"/>
{"".join(shapes)}
</svg>
"""


TARGET.parent.mkdir(exist_ok=True)
TARGET.write_text(picture(), encoding="utf-8")
print(TARGET)
