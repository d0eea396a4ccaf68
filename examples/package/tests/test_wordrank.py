"""Tests of a package that uses parmap: small inputs run right here, so there is nothing to mock."""

import wordrank


def test_the_most_alike_comes_first():
    ranked = wordrank.similar("a cat sat", ["no dog at all", "the cat sat", "a cat sat"])
    assert [position for _, position in ranked] == [2, 1, 0]


def test_workers_give_the_same(monkeypatch):
    """The one test with real workers: the variable pins what the package leaves open."""
    documents = [f"word {n} and word {n % 7}" for n in range(50)]
    here = wordrank.similar("word 3", documents)
    monkeypatch.setenv("PARMAP_PARALLEL", "1")
    assert wordrank.similar("word 3", documents, max_workers=2) == here
