"""Run a model for every pair of two parameters, into a pandas frame. Needs pandas."""

import itertools
import sys

import pandas as pd

from parmap import pstarmap


def peak(contagion, recovery, steps):
    """The largest share of people ill at once, in the SIR model of an epidemic over 400 days."""
    healthy, ill, most = 0.999, 0.001, 0.0
    for _ in range(400 * steps):
        infected = contagion * healthy * ill / steps
        healthy -= infected
        ill += infected - recovery * ill / steps
        most = max(most, ill)
    return most


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 50  # a day; more are exacter and slower
contagions = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
recoveries = [0.05, 0.10, 0.15, 0.20]
sweep = list(itertools.product(contagions, recoveries, [steps]))

peaks = pstarmap(peak, sweep)
frame = pd.DataFrame(sweep, columns=["contagion", "recovery", "steps"]).assign(peak=list(peaks))
print(frame.pivot(index="contagion", columns="recovery", values="peak").map("{:.1%}".format))
print(peaks.report)
