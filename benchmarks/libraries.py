"""Libraries that take a map: the same answer as serially, and never much longer than the best way.

    python benchmarks/libraries.py [--rounds N]

SciPy's differential_evolution and brute, DEAP and emcee, each with map, with a warm Pool.map and
with pmap, cheap and dear functions. A figure is the time over the better of serial and Pool.map, the
median over rounds. Needs scipy, deap and emcee.
"""

import argparse
import importlib.metadata
import multiprocessing
import platform
import random
import statistics
import time

import numpy
from deap import algorithms, base, creator, tools
from emcee import EnsembleSampler
from scipy.optimize import brute, differential_evolution, rosen

from parmap import pmap

creator.create("Cost", base.Fitness, weights=(-1.0,))
creator.create("Point", list, fitness=creator.Cost)


def cheap(x):
    return float(rosen(x))


def dear(x):
    total = 0.0
    for step in range(3000):
        total += (step % 7) * 1e-9
    return float(rosen(x)) + total


def likelihood(x):
    return -dear(x)


def cheap_likelihood(x):
    return -cheap(x)


def costs(point):
    return (dear(numpy.array(point)),)


def cheap_costs(point):
    return (cheap(numpy.array(point)),)


def evolve(fn, mapper):
    found = differential_evolution(
        fn, [(-2, 2)] * 4, workers=mapper, updating="deferred", seed=1, maxiter=20, popsize=10,
        polish=False, tol=0,
    )  # fmt: skip
    return found.x.tolist()


def grid(fn, mapper):
    return brute(fn, [(-2, 2)] * 2, Ns=20, workers=mapper, finish=None).tolist()


def genetic(fn, mapper):
    random.seed(1)
    toolbox = base.Toolbox()
    toolbox.register("map", mapper)
    toolbox.register("number", random.uniform, -2, 2)
    toolbox.register("point", tools.initRepeat, creator.Point, toolbox.number, 4)
    toolbox.register("population", tools.initRepeat, list, toolbox.point)
    toolbox.register("evaluate", fn)
    toolbox.register("mate", tools.cxTwoPoint)
    toolbox.register("mutate", tools.mutGaussian, mu=0, sigma=0.3, indpb=0.3)
    toolbox.register("select", tools.selTournament, tournsize=3)
    people, _ = algorithms.eaSimple(toolbox.population(60), toolbox, 0.5, 0.3, 15, verbose=False)
    return sorted(map(list, people))


class Mapper:
    """What emcee takes for a pool."""

    def __init__(self, mapper):
        self.map = mapper


def sample(fn, mapper):
    start = numpy.random.RandomState(1).randn(24, 4) * 0.1
    sampler = EnsembleSampler(24, 4, fn, pool=Mapper(mapper))
    sampler.random_state = numpy.random.RandomState(2).get_state()
    return sampler.run_mcmc(start, 25).coords.tolist()


CASES = (
    ("differential_evolution", evolve, cheap, dear),
    ("brute", grid, cheap, dear),
    ("DEAP", genetic, cheap_costs, costs),
    ("emcee", sample, cheap_likelihood, likelihood),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    names = ("scipy", "deap", "emcee", "numpy")
    print("Python", platform.python_version(), "on", platform.platform() + ";",
          ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names), "\n")  # fmt: skip
    print("| library | function | serial | Pool.map | pmap | same answer |")
    print("| --- | --- | ---: | ---: | ---: | --- |")
    with multiprocessing.Pool() as pool:
        for name, run, *functions in CASES:
            for word, fn in zip(("cheap", "dear"), functions, strict=True):
                row, same = measured(run, fn, pool, chosen.rounds)
                figures = " | ".join(f"{figure:.2f}" for figure in row)
                print(f"| {name} | {word} | {figures} | {'yes' if same else 'NO'} |", flush=True)


def measured(run, fn, pool, rounds):
    ratios, same = [], True
    for _ in range(rounds):
        taken, answers = [], []
        for mapper in (map, pool.map, pmap):
            began = time.perf_counter()
            answers.append(run(fn, mapper))
            taken.append(time.perf_counter() - began)
        same = same and answers[0] == answers[1] == answers[2]
        ratios.append([each / min(taken[:2]) for each in taken])
    return [statistics.median(column) for column in zip(*ratios, strict=True)], same


if __name__ == "__main__":
    main()
