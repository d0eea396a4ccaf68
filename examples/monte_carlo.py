"""The value of an average-price option by Monte Carlo, with NumPy. Needs NumPy.

Each item is a seed, so that the answer is the same serially and in workers, whatever the chunks.
"""

import math
import sys

import numpy as np

from parmap import pmap


def simulated(strike, days=252, paths=2_000, start=100.0, rate=0.02, volatility=0.25):
    """A function of a seed: the mean discounted payoff of that many random paths."""

    def payoff(seed):
        noise = np.random.default_rng(seed).standard_normal((paths, days))
        step = (rate - volatility**2 / 2) / days + volatility / math.sqrt(days) * noise
        prices = start * np.exp(np.cumsum(step, axis=1))
        return math.exp(-rate) * np.maximum(prices.mean(axis=1) - strike, 0).mean()

    return payoff


batches = int(sys.argv[1]) if len(sys.argv) > 1 else 60
seeds = np.random.SeedSequence(2026).spawn(batches)  # streams that do not overlap
for strike in (90, 100, 110):
    means = pmap(simulated(strike), seeds)
    values = np.array(list(means))
    error = values.std(ddof=1) / math.sqrt(batches)
    print(f"strike {strike}: {values.mean():6.3f} +- {error:.3f}   ({means.report.mode})")
