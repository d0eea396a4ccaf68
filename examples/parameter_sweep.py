"""Run a model for every pair of two parameters: pstarmap over a product."""

import itertools

from parmap import pstarmap


def peak(contagion, recovery, days=400, steps=50):
    """The largest share of people ill at once, in the SIR model of an epidemic."""
    healthy, ill, most = 0.999, 0.001, 0.0
    for _ in range(days * steps):
        infected = contagion * healthy * ill / steps
        healthy -= infected
        ill += infected - recovery * ill / steps
        most = max(most, ill)
    return most


contagions = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
recoveries = [0.05, 0.10, 0.15, 0.20]
results = pstarmap(peak, itertools.product(contagions, recoveries))
peaks = list(results)

print("contagion " + "".join(f"{recovery:>8}" for recovery in recoveries) + "  recovery")
for row, contagion in enumerate(contagions):
    shares = peaks[row * len(recoveries) : (row + 1) * len(recoveries)]
    print(f"{contagion:9} " + "".join(f"{share:8.1%}" for share in shares))
print(results.report)
