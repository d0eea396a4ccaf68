"""What stands beside the code agrees with it: versions, bounds, sessions, templates."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import parmap

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def text(*parts: str) -> str:
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def sessions() -> set[str]:
    """The sessions of the noxfile; those of several Pythons with each of their names."""
    found = set(re.findall(r"^def ([a-z]\w*)\(session: nox\.Session\)", text("noxfile.py"), re.M))
    return {*found, *(f"tests-{python}" for python in supported())}


def supported() -> list[str]:
    names = [name.rpartition(" :: ")[2] for name in PROJECT["classifiers"]]
    return [name for name in names if re.fullmatch(r"3\.\d+", name)]


def test_the_citation_has_the_version_of_the_code() -> None:
    assert f"\nversion: {parmap.__version__}\n" in text("CITATION.cff")


def test_the_supported_pythons_are_the_tested_ones() -> None:
    """In the classifiers, the noxfile, the workflow and on the page about platforms."""
    assert PROJECT["requires-python"] == f">={supported()[0]}"
    assert re.findall(
        r'"(3\.\d+)"', text("noxfile.py").partition("PYTHONS = ")[2].partition("]")[0]
    )
    for python in supported():
        assert f"session: tests-{python} " in text(".github", "workflows", "ci.yml")
        assert python in text("docs", "platforms.md").splitlines()[2]


def test_every_row_of_the_workflow_runs_a_session_and_says_why() -> None:
    """Rows of one reason stand under it together."""
    lines = text(".github", "workflows", "ci.yml").splitlines()
    rows = [number for number, line in enumerate(lines) if "session: " in line and "os:" in line]
    assert {re.findall(r"session: ([\w.-]+)", lines[row])[0] for row in rows} <= sessions()
    for row in rows:
        above = row - 1
        while above in rows:
            above -= 1
        assert "# Why: " in lines[above], lines[row]


def test_the_commands_of_contributing_exist() -> None:
    named = re.findall(r"nox -s ([\w.-]+)", text("CONTRIBUTING.md"))
    assert set(named) <= sessions()
    assert len(set(named)) >= 6


def test_reports_are_asked_for_what_the_machine_is() -> None:
    for template in ("bug.yml", "slow.yml"):
        assert "python -m parmap" in text(".github", "ISSUE_TEMPLATE", template)


def test_the_changelog_keeps_its_form() -> None:
    """Sections by version, newest first, with the six kinds of change and no others."""
    headings = re.findall(r"^## (.+)$", text("CHANGELOG.md"), re.M)
    assert headings[0] == "[Unreleased]"
    dated = r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}"
    assert [heading for heading in headings[1:] if not re.fullmatch(dated, heading)] == []
    kinds = set(re.findall(r"^### (.+)$", text("CHANGELOG.md"), re.M))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
