"""Optimal clusters of numbers on a line."""

from __future__ import annotations

import math
from collections.abc import Sequence

import kmeans1d

from rheobase.core.errors import RecipeError


def clusters(values: Sequence[float], number: int) -> tuple[int, ...]:
    """Divide numbers into clusters with the least sum of squared distances to the cluster's mean.

    The optimum of all partitions, by dynamic programming (Grønlund et al. 2018).

    Args:
        values: what to divide. An infinite value joins the cluster with the largest mean, which the others decide.
        number: χ.

    Returns:
        For each value the number of its cluster, 0 for the one with the smallest mean.

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
            f"are {number}, for as many clusters, but the sites' metric has only {differing} different values",
            where="levels",
            remedy=f"give at most {differing}" if differing else "train the network first: no site's activation varies",
        )
    found = iter(kmeans1d.cluster(finite, number).clusters)
    return tuple(next(found) if math.isfinite(value) else number - 1 for value in values)
