"""The checks, each by its name: `nox -l` lists them, `nox -s docs` runs one, `.ci/run` runs all."""

import os
import shutil
import tarfile
import tomllib
import zipfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["tests"]

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]

# Bytes a wheel may have. It is pure Python; more than this would be something that slipped in.
LARGEST_WHEEL = 115_000

# A part of the tests that shows within half a minute whether an installation works at all: the
# contract in workers, the bar, the rules of the house.
PART = ["tests/test_contract.py", "tests/test_progress.py", "tests/test_house.py"]
PART_NAMES = ["-k", "default or decide or progress or house"]


def chosen(session: nox.Session) -> list[str]:
    """What pytest is to run: what is named after `--`; with `-- part`, the quick part; else all."""
    return [*PART, *PART_NAMES] if session.posargs == ["part"] else list(session.posargs)


def install(session: nox.Session, *what: str) -> None:
    session.install("-q", "-U", "pip")  # dependency groups came with pip 25.1
    session.install("-q", *what)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The whole test-suite, or what is named after `--`; `-- part` for the quick part."""
    install(session, "-e", ".", "--group", "test")
    session.run("python", "-m", "pytest", "-q", *chosen(session))


@nox.session
def lint(session: nox.Session) -> None:
    """Style, types inside, and types as a user's checker sees them: the public API, complete."""
    install(session, ".", "--group", "check", "nox")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy", "--strict", "parmap", "tests/typing")
    session.run("mypy", "--strict", "examples/package/src")
    session.run("pyright", "parmap", "tests/typing")
    with session.chdir(session.create_tmp()):  # or it would look at the checkout
        session.run("pyright", "--verifytypes", "parmap", "--ignoreexternal")


@nox.session
def docs(session: nox.Session) -> None:
    """The site into site/, every warning an error; `-- serve` shows it while you write."""
    install(session, "-e", ".", "--group", "docs")
    if session.posargs == ["serve"]:
        session.run("mkdocs", "serve")
    else:
        quiet = {"NO_MKDOCS_2_WARNING": "1"}  # a banner of the theme about its successor
        session.run("mkdocs", "build", "--strict", "--quiet", env=quiet)


@nox.session
def site(session: nox.Session) -> None:
    """Everything that pages and examples show, executed; and the package that depends on parmap."""
    install(session, "-e", ".", "--group", "test", "--group", "examples")
    session.run("python", "-m", "pytest", "-q", "-m", "site and not cluster", *session.posargs)
    session.install("-q", "--no-deps", "./examples/package")
    session.run("python", "-m", "pytest", "-q", "--doctest-modules", "examples/package")


@nox.session(python="3.11")
def clusters(session: nox.Session) -> None:
    """The contract, and what clusters add to it, on a real Dask, a real Ray and a real MPI."""
    install(session, "-e", ".", "--group", "test", "--group", "engines")
    session.run("python", "-m", "pytest", "-q", "-m", "cluster", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """What only shows over a long time; some minutes, once a night."""
    install(session, "-e", ".", "--group", "test")
    session.run("python", "-m", "pytest", "-q", "-m", "soak", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Wheel and sdist into dist/; the tests, from the sdist, against the wheel; `-- part` too."""
    install(session, "build", "--group", "test")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", silent=True)
    (built,) = Path("dist").glob("*.whl")
    (source,) = Path("dist").glob("*.tar.gz")
    _check_wheel(session, built)
    session.install("-q", "--force-reinstall", str(built))
    folder = Path(session.create_tmp(), "sdist").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    shutil.rmtree(unpacked / "parmap")  # only the installed one is left
    session.chdir(unpacked)
    session.run("pytest", "-q", *chosen(session))


def _check_wheel(session: nox.Session, built: Path) -> None:
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
    if built.stat().st_size > LARGEST_WHEEL:
        session.error(f"{built} has {built.stat().st_size:,} bytes, more than {LARGEST_WHEEL:,}")
    if not {"parmap/py.typed", "parmap/__init__.py"} <= set(names):
        session.error(f"{built} lacks py.typed, so its types are not seen")
    if not any(name.endswith("licenses/LICENSE") for name in names):
        session.error(f"{built} lacks the licence")
    strays = [name for name in names if not name.startswith(("parmap/", "parmap_pool-"))]
    if strays:
        session.error(f"{built} would install {strays}")
    session.log(f"{built.name}: {built.stat().st_size:,} bytes, {len(names)} files")


@nox.session
def oldest(session: nox.Session) -> None:
    """The tests with the oldest cloudpickle and tqdm that pyproject.toml allows; `-- part` too."""
    install(session, "-e", ".", "--group", "test")
    allowed = tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]
    session.install("-q", *(each.replace(">=", "==") for each in allowed))
    session.run("python", "-m", "pytest", "-q", *chosen(session))


@nox.session
def pictures(session: nox.Session) -> None:
    """Draw docs/img/ anew: the call, the bar in a terminal and in a notebook (needs chromium)."""
    install(session, "-e", ".", "--group", "pictures")
    for script in sorted(Path("docs/pictures").glob("*.py")):
        session.run("python", os.fspath(script))
