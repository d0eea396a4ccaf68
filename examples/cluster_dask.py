"""The same call on a cluster: a scheduler and three worker processes on this machine.

Needs Dask: `pip install distributed`. For real machines only the client changes.
"""

import os

from distributed import Client, LocalCluster

from parmap import pmap


def estimate(seed):
    """One estimate of pi, and the process it came from."""
    import random

    rng = random.Random(seed)
    inside = sum(rng.random() ** 2 + rng.random() ** 2 < 1 for _ in range(20_000))
    return 4 * inside / 20_000, os.getpid()


if __name__ == "__main__":
    with (
        LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        results = pmap(estimate, range(300), executor=client, parallel=True)
        estimates, processes = zip(*results, strict=True)
        print(f"pi is about {sum(estimates) / len(estimates):.3f}")
        print(f"computed by {len(set(processes))} processes, none of them this one:",
              os.getpid() not in processes)  # fmt: skip
        print(results.report)
