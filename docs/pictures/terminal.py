"""Capture docs/img/bar-terminal.svg: what a real pseudo-terminal shows half-way through a call.

python docs/pictures/terminal.py        (needs pexpect and pyte)
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

import pexpect
import pyte

TARGET = Path(__file__).parent.parent / "img" / "bar-terminal.svg"
COLUMNS, LINES = 84, 7
WIDTH, HEIGHT = 8.4, 19  # of a character cell, in pixels

SESSION = [
    "import time",
    "from parmap import pmap",
    "def page(n):",
    "    time.sleep(0.1); return n",
    "",
    "pages = list(pmap(page, range(600), max_workers=8, progress='pages'))",
]


def captured() -> list[str]:
    """The lines on the screen when the bar is past its middle."""
    screen = pyte.Screen(COLUMNS, 40)
    stream = pyte.Stream(screen)
    python = pexpect.spawn(
        sys.executable, ["-q"], dimensions=(40, COLUMNS), encoding="utf-8", timeout=60,
        env={"PATH": "/usr/bin:/bin", "TERM": "linux", "LANG": "C.UTF-8"},
    )  # fmt: skip
    for line in SESSION:
        python.expect([">>> ", r"\.\.\. "])
        stream.feed(python.before + python.after)
        python.sendline(line)
    while "60%" not in screen.display[screen.cursor.y]:
        python.expect("\r|\n")
        stream.feed(python.before + python.after)
    lines = [line.rstrip() for line in screen.display]
    python.terminate(force=True)
    return [line for line in lines if line]


def drawn(lines: list[str]) -> str:
    width, height = COLUMNS * WIDTH + 32, len(lines) * HEIGHT + 58
    rows = "".join(
        f'<text x="16" y="{54 + row * HEIGHT}" xml:space="preserve" textLength="{len(line) * WIDTH:.0f}"'
        f' lengthAdjust="spacingAndGlyphs">{escape(line)}</text>'
        for row, line in enumerate(lines)
    )
    dots = "".join(
        f'<circle cx="{20 + 18 * n}" cy="18" r="5.5" fill="{colour}"/>'
        for n, colour in enumerate(("#e06c5e", "#e0b25e", "#7fb77e"))
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img">
<title>A call of pmap with its bar, in a terminal</title>
<rect width="{width:.0f}" height="{height}" rx="8" fill="#1e2526"/>{dots}
<g font-family="'DejaVu Sans Mono', Menlo, Consolas, monospace" font-size="14" fill="#dfe7e6">{rows}</g>
</svg>
"""


TARGET.write_text(drawn(captured()), encoding="utf-8")
print(TARGET)
