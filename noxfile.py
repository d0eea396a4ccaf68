"""The test-suite on each Python there is: `nox`, or `nox -s tests-3.13`."""

import nox

nox.options.default_venv_backend = "venv"


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    session.install("-q", "-U", "pip")  # dependency groups came with pip 25.1
    session.install("-q", "-e", ".", "--group", "test")
    session.run("python", "-m", "pytest", "-q", *session.posargs)


@nox.session(python="3.11")
def clusters(session: nox.Session) -> None:
    """The contract, and what clusters add to it, on a real Dask, a real Ray and a real MPI."""
    session.install("-q", "-U", "pip")
    session.install("-q", "-e", ".", "--group", "test", "--group", "engines")
    session.run("python", "-m", "pytest", "-q", "-m", "cluster", *session.posargs)
