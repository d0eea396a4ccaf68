"""Which documents are like this one? A package that uses parmap and shows nothing of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from functools import partial

from parmap import pmap

__all__ = ["similar"]


def similar(
    query: str,
    documents: Iterable[str],
    *,
    max_workers: int | None = None,
    progress: bool | str = False,
) -> list[tuple[float, int]]:
    """Rank documents by the cosine of their word counts with the query's, the most alike first.

    Args:
        query: a text.
        documents: texts; read as they are needed.
        max_workers: processes at the most; None lets parmap measure whether any are worth it.
        progress: True, or a label, for a bar; a library stays quiet unless it is asked.

    Returns:
        (score between 0 and 1, position of the document) for each document.

    >>> similar("a cat sat", ["no dog", "the cat sat"])[0][1]
    1
    """
    scores = pmap(
        partial(_cosine, _words(query)), documents, max_workers=max_workers, progress=progress
    )
    ranked = [(score, position) for position, score in enumerate(scores)]
    return sorted(ranked, key=lambda each: (-each[0], each[1]))


def _words(text: str) -> Counter[str]:
    return Counter(text.lower().split())


def _cosine(query: Counter[str], document: str) -> float:
    words = _words(document)
    norms = math.hypot(*query.values()) * math.hypot(*words.values())
    return sum(query[word] * words[word] for word in query) / norms if norms else 0.0
