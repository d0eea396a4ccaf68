"""Estimate an integral by random sampling: a closure over a parameter, in pure Python."""

import random

from parmap import pmap


def estimator(power, samples):
    """A function of a seed that estimates the integral of x ** power from 0 to 1."""

    def estimate(seed):
        rng = random.Random(seed)  # one generator an item: the same values serially and in workers
        return sum(rng.random() ** power for _ in range(samples)) / samples

    return estimate


for power in (1, 2, 3):
    estimates = list(pmap(estimator(power, samples=50_000), range(100)))
    mean = sum(estimates) / len(estimates)
    print(f"integral of x**{power}: {mean:.4f}, exactly {1 / (power + 1):.4f}")
