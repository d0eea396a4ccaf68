"""What the README shows runs, and prints what it says it prints. The site's pages: `-m site`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import ROOT, dead_links, programs, run, runs_as_shown

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]


@pytest.mark.parametrize(("program", "output"), programs([README]))
def test_a_program_on_a_page_runs_and_prints_what_the_page_says(
    program: str, output: str | None, tmp_path: Path
) -> None:
    runs_as_shown(program, output, tmp_path)


def test_word_counts_gives_the_same_counts_with_map_and_pmap(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two two\n")
    (tmp_path / "b.bin").write_bytes(b"two \0 two")
    printed = run(ROOT / "examples" / "word_counts.py", str(tmp_path), cwd=tmp_path)
    assert re.search(r"^ +2 two$", printed, re.MULTILINE)
    assert "same counts: True" in printed


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


def test_the_readme_has_one_line_that_runs_the_tests() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if "-m pytest" in line]) == 1
