"""What the pages show runs, and prints what they say it prints."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# Folders the examples that want one are given, so that they end soon.
ARGUMENTS = {"word_counts.py": [str(ROOT / "parmap")]}

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+)\)")


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


def programs() -> list[object]:
    """(program, output or None) of each python block; a text block right after it is its output."""
    found: list[object] = []
    for page in PAGES:
        blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
        for position, (language, text) in enumerate(blocks):
            if language == "python":
                after = blocks[position + 1 : position + 2]
                output = after[0][1] if after and after[0][0] == "text" else None
                found.append(
                    pytest.param(text, output, id=f"{page.name}-{position}", marks=needs(page.stem))
                )
    return found


@pytest.mark.parametrize(("program", "output"), programs())
def test_a_program_on_a_page_runs_and_prints_what_the_page_says(
    program: str, output: str | None, tmp_path: Path
) -> None:
    script = tmp_path / "shown.py"
    script.write_text(program, encoding="utf-8")
    printed = run(script, cwd=tmp_path)
    if output is not None:
        assert printed == output


@pytest.mark.parametrize(
    "example", [pytest.param(path, id=path.name, marks=needs(path.stem)) for path in EXAMPLES]
)
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    assert run(example, *ARGUMENTS.get(example.name, ()), cwd=tmp_path)


def test_word_counts_gives_the_same_counts_with_map_and_pmap(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two two\n")
    (tmp_path / "b.bin").write_bytes(b"two \0 two")
    printed = run(ROOT / "examples" / "word_counts.py", str(tmp_path), cwd=tmp_path)
    assert re.search(r"^ +2 two$", printed, re.MULTILINE)
    assert "same counts: True" in printed


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = [t for t in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in t]
    assert [t for t in targets if not (page.parent / t).exists()] == []


def test_the_readme_has_one_line_that_runs_the_tests() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if "-m pytest" in line]) == 1
