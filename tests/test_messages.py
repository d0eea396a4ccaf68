"""docs/troubleshooting.md, and what parmap says: every message is explained, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import parmap

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")

# What is called with a text that a user will read.
SAYS = re.compile(r"\w*(Error|Died)|cls|warn|add_note|_cannot|_give_up|Unavailable")
# What it is called where it is handed on.
NAMED = {"message", "reason"}

# Python's own, or of no user's concern: they would be bugs, or are told inside another message.
OWN = (
    "module 'parmap' has no attribute …",
    "… is shorter than what was written into it",
    "the plain bar needs no import",
)


def text_of(node: ast.AST | None) -> str:
    """A text in the code, an f-string with … for what it fills in; "" for anything else."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(n.value) if isinstance(n, ast.Constant) else "…" for n in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def nodes() -> Iterator[tuple[str, ast.AST]]:
    for room in sorted(Path(parmap.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(room.read_text(encoding="utf-8"))):
            yield room.stem, node


def texts(room: str, node: ast.AST) -> list[str]:
    """What a user will read of this piece of code, if it says anything."""
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args):
            return [text_of(each) for each in args] if SAYS.fullmatch(name) else []
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in NAMED:
            return [text_of(value)]
        case ast.Return(value=ast.Tuple(elts=elements)) if room == "_chunk":
            return [text_of(each) for each in elements]
    return []


SAID = sorted({t for room, node in nodes() for t in texts(room, node) if re.search(r"\w \w", t)})
ALL_TEXTS = "\n".join(text_of(node) for _, node in nodes())
HEADINGS = re.findall(r"^### `(.+?)`", PAGE, re.MULTILINE)
# In the text of a section too; what has fewer words is a name or an option.
EXPLAINED = [span for span in re.findall(r"`([^`\n]+)`", PAGE) if len(span.split()) >= 3]


def covers(explained: str, said: str) -> bool:
    return bool(re.search(".*".join(map(re.escape, explained.split("…"))), said))


def test_messages_are_found() -> None:
    """Or the next test would pass for nothing."""
    assert len(SAID) > 35


@pytest.mark.parametrize("said", [each for each in SAID if each not in OWN])
def test_a_message_that_parmap_says_is_explained(said: str) -> None:
    assert [each for each in EXPLAINED if covers(each, said)], "see docs/troubleshooting.md"


# What Python says of `zip(strict=True)`, under the name of map.
BORROWED = "map() argument … is … than …"


@pytest.mark.parametrize("heading", [each for each in HEADINGS if each != BORROWED])
def test_a_message_that_is_explained_is_one_that_parmap_says(heading: str) -> None:
    """Each piece of it between what differs."""
    pieces = [piece.strip() for piece in heading.split("…") if len(piece.strip()) > 1]
    assert pieces
    assert [piece for piece in pieces if piece not in ALL_TEXTS] == []
