"""Fit a curve with SciPy's differential_evolution, whose `workers=` takes a map. Needs SciPy.

The optimiser calls the map once a generation. Workers stay warm between these calls.
"""

import sys

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import differential_evolution

from parmap import pmap

TIMES = np.linspace(0, 12, 40)
TRUTH = (1.1, 0.4, 0.4, 0.1)


def populations(rates):
    """Hares and lynxes after Lotka and Volterra."""
    a, b, c, d = rates
    solved = solve_ivp(
        lambda _, y: (y[0] * (a - b * y[1]), y[1] * (d * y[0] - c)),
        (0, TIMES[-1]), (10, 5), t_eval=TIMES, rtol=1e-6,
    )  # fmt: skip
    return solved.y


observed = populations(TRUTH)


def misfit(rates):
    """The objective: how far off these rates are. A solver that gives up is far off."""
    found = populations(rates)
    return np.square(found - observed).sum() if found.shape == observed.shape else 1e9


generations = int(sys.argv[1]) if len(sys.argv) > 1 else 12
bounds = [(0.5, 1.5), (0.2, 0.6), (0.2, 0.6), (0.05, 0.2)]
best = differential_evolution(
    misfit, bounds, maxiter=generations, popsize=8, rng=1, updating="deferred", polish=False,
    workers=pmap,
)  # fmt: skip
print("found", best.x.round(3), "misfit", float(best.fun.round(3)))
print("truth", np.array(TRUTH))
