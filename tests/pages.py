"""Pages and their programs, for the tests that execute what README, docs and examples show."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

BLOCK = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")


# Pages and examples that need an extra, and start a cluster.
CLUSTERS = {
    "engines-dask": "distributed",
    "engines-ray": "ray",
    "cluster_dask": "distributed",
}


def needs(name: str) -> list[pytest.MarkDecorator]:
    """What keeps a page or an example from being run everywhere."""
    if name not in CLUSTERS:
        return []
    there = importlib.util.find_spec(CLUSTERS[name]) is not None
    why = f"{CLUSTERS[name]} is not installed"
    return [pytest.mark.cluster, pytest.mark.skipif(not there, reason=why)]


def run(script: Path, *arguments: str, cwd: Path) -> str:
    """Run a script as a user would, with warnings as errors; what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


def programs(pages: list[Path]) -> list[object]:
    """(program, output or None) of each python block; a bare text block right after it is its
    output. One with a title is an example of an output that differs from run to run."""
    found: list[object] = []
    for page in pages:
        blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
        for position, (language, _, text) in enumerate(blocks):
            if language == "python":
                after = blocks[position + 1 : position + 2]
                output = after[0][2] if after and after[0][:2] == ("text", "") else None
                found.append(
                    pytest.param(text, output, id=f"{page.stem}-{position}", marks=needs(page.stem))
                )
    return found


def runs_as_shown(program: str, output: str | None, folder: Path) -> None:
    """A program of a page runs, and prints what the page says it prints."""
    script = folder / "shown.py"
    script.write_text(program, encoding="utf-8")
    printed = run(script, cwd=folder)
    if output is not None:
        assert printed == output


def dead_links(page: Path) -> list[str]:
    targets = [t for t in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in t]
    return [target for target in targets if not (page.parent / target).exists()]
