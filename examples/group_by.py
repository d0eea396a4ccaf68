"""A group-by whose function is slow: split a frame with pandas, map the groups. Needs pandas."""

import sys

import numpy as np
import pandas as pd

from parmap import pstarmap

shops = int(sys.argv[1]) if len(sys.argv) > 1 else 60
days = pd.date_range("2026-01-01", periods=365)
rng = np.random.default_rng(7)
sales = pd.DataFrame(
    {
        "shop": np.repeat([f"shop {n:02}" for n in range(shops)], len(days)),
        "day": np.tile(days, shops),
        "sold": rng.poisson(40, shops * len(days)),
    }
)


def spread_of_median(shop, group, draws=2000):
    """A row of the answer: the median day of one shop, and how sure it is, by bootstrap."""
    sold = group["sold"].to_numpy()
    rng = np.random.default_rng(len(shop))
    medians = np.median(rng.choice(sold, (draws, len(sold))), axis=1)
    low, high = np.percentile(medians, (5, 95))
    return {"shop": shop, "median": np.median(sold), "low": low, "high": high}


# A group-by is an iterable of (name, group), which is just what starmap takes.
rows = pstarmap(spread_of_median, sales.groupby("shop"))
print(pd.DataFrame(rows).set_index("shop").head())
print(rows.report)
