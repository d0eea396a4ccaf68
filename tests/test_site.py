"""What the site and the examples show runs. With a command of its own, for it needs the dependency
group `examples`: `nox -s site`, or `python -m pytest -m site`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import ROOT, needs, programs, run, runs_as_shown

pytestmark = pytest.mark.site

COMING_FROM = ROOT / "docs" / "how-to" / "coming-from.md"  # has a test of its own
DOCS = sorted(page for page in ROOT.glob("docs/**/*.md") if page != COMING_FROM)
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# What makes an example end soon.
QUICK = {
    "differential_evolution.py": ["2"],
    "evolution_deap.py": ["5"],
    "group_by.py": ["20"],
    "monte_carlo.py": ["10"],
    "parameter_sweep.py": ["10"],
    "word_counts.py": [str(ROOT / "parmap")],
}


@pytest.mark.parametrize(("program", "output"), programs(DOCS))
def test_a_program_on_a_page_runs_and_prints_what_the_page_says(
    program: str, output: str | None, tmp_path: Path
) -> None:
    runs_as_shown(program, output, tmp_path)


@pytest.mark.parametrize(
    "example", [pytest.param(path, marks=needs(path.stem), id=path.name) for path in EXAMPLES]
)
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    assert run(example, *QUICK.get(example.name, ()), cwd=tmp_path)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_can_be_read_at_a_glance(example: Path) -> None:
    assert 15 <= len(example.read_text(encoding="utf-8").splitlines()) <= 50


# ------------------------------------------------------------------ coming from another library

SECTION = re.compile(r"^## (.+?)$(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| `(.+?)` \| `(.+?)` \|$", re.MULTILINE)

# Both sides of each row; an iterator is what it yields.
COMPARED = """
for before, after in {rows!r}:
    left, right = eval(before), eval(after)
    if not hasattr(left, "__len__"):
        left, right = list(left), list(right)
    assert left == right, (before, left, after, right)
for each in ("pool", "executor"):
    if each in globals():
        getattr(globals()[each], "terminate", lambda: None)()
        getattr(globals()[each], "shutdown", lambda: None)()
print("compared", {count})
"""


def comparisons() -> list[object]:
    text = COMING_FROM.read_text(encoding="utf-8")
    return [pytest.param(body, id=title) for title, body in SECTION.findall(text) if "```" in body]


@pytest.mark.parametrize("section", comparisons())
# The other library may warn of itself, so warnings are not errors here.
def test_before_and_after_give_the_same(section: str, tmp_path: Path) -> None:
    rows = ROW.findall(section)
    assert len(rows) >= 4
    (setup,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    script = tmp_path / "rows.py"
    relaxed = "import warnings\nwarnings.simplefilter('ignore')\n"
    script.write_text(relaxed + setup + COMPARED.format(rows=rows, count=len(rows)))
    assert run(script, cwd=tmp_path) == f"compared {len(rows)}\n"
