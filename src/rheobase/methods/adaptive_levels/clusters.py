"""Optimal one-dimensional clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import kmeans1d

from rheobase.core.errors import RecipeError


def clusters(values: Sequence[float], number: int) -> tuple[int, ...]:
    """Divide numbers into clusters with the least sum of squared distances to the cluster means.

    Computes the optimum over all partitions by dynamic programming (Grønlund et al. 2018).

    Args:
        values: the numbers. Infinite values do not affect the clusters and join the one with the largest mean.
        number: χ, the number of clusters.

    Returns:
        The index of the cluster of each value; 0 is the cluster with the smallest mean.

    Raises:
        RecipeError: if fewer than χ finite values differ.

    Example:
        >>> clusters([5.0, 0.0, 1.0, 6.0, math.inf], 2)
        (1, 0, 0, 1, 1)
    """
    finite = [value for value in values if math.isfinite(value)]
    differing = len(set(finite))
    if differing < number:
        raise RecipeError(
            f"are {number}, one per cluster of sites, but the metric has only {differing} different values",
            where="levels",
            remedy=f"give at most {differing}" if differing else "train the network first: no site's activation varies",
        )
    found = iter(kmeans1d.cluster(finite, number).clusters)
    return tuple(next(found) if math.isfinite(value) else number - 1 for value in values)
