"""Shapes of work for the schedule benchmarks: seconds of each item, and the best that can be done."""

import heapq
import random


def even(count, mean):
    return [mean] * count


def skewed(count, mean):
    rng = random.Random(1)
    drawn = [rng.lognormvariate(0, 1) for _ in range(count)]
    return [mean * count * value / sum(drawn) for value in drawn]


def ascending(count, mean):
    return [2 * mean * (position + 0.5) / count for position in range(count)]


def descending(count, mean):
    return ascending(count, mean)[::-1]


def bimodal(count, mean):
    """One item in ten takes half of the time."""
    rng = random.Random(2)
    return [mean * (5 if rng.random() < 0.1 else 0.556) for _ in range(count)]


def giant_first(count, mean):
    """The first item takes a tenth of what all others take together."""
    return [0.1 * mean * count, *even(count - 1, 0.9 * mean)]


def giant_last(count, mean):
    return giant_first(count, mean)[::-1]


ALL = (even, skewed, ascending, descending, bimodal, giant_first, giant_last)


def ideal(seconds, workers):
    """When the last item ends if each goes to the first free worker, in order, and nothing else
    costs anything (list scheduling: Graham, 1966)."""
    free = [0.0] * workers
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)
