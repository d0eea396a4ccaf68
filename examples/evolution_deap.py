"""Evolve with DEAP, whose toolbox takes a map: one line registers parmap's. Needs DEAP."""

import random
import sys

from deap import algorithms, base, creator, tools

from parmap import pmap

CITIES = [complex(random.Random(n).random(), random.Random(n + 99).random()) for n in range(30)]

creator.create("Shortest", base.Fitness, weights=(-1.0,))
creator.create("Tour", list, fitness=creator.Shortest)


def length(tour):
    """The objective: the way round all cities, in this order. DEAP wants a tuple."""
    pairs = zip(tour, tour[1:] + tour[:1], strict=True)
    return (sum(abs(CITIES[a] - CITIES[b]) for a, b in pairs),)


toolbox = base.Toolbox()
toolbox.register("order", random.sample, range(len(CITIES)), len(CITIES))
toolbox.register("tour", tools.initIterate, creator.Tour, toolbox.order)
toolbox.register("population", tools.initRepeat, list, toolbox.tour)
toolbox.register("evaluate", length)
toolbox.register("mate", tools.cxOrdered)
toolbox.register("mutate", tools.mutShuffleIndexes, indpb=0.05)
toolbox.register("select", tools.selTournament, tournsize=3)
toolbox.register("map", pmap)  # the one line

generations = int(sys.argv[1]) if len(sys.argv) > 1 else 60
random.seed(1)
best = tools.HallOfFame(1)
population, log = algorithms.eaSimple(
    toolbox.population(n=200), toolbox, cxpb=0.7, mutpb=0.3, ngen=generations, halloffame=best,
    verbose=False,
)  # fmt: skip
print(f"{sum(log.select('nevals'))} tours tried, the best is {length(best[0])[0]:.3f} long")
