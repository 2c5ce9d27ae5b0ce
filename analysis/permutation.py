"""Friedman's test by permutation: exact while that is quick, else by random permutations with a fixed seed.

The usual approximations are for many tasks: at three tasks and three methods Iman and Davenport's F calls 19% of true
nulls at 0.05, and ties make it worse.
"""

import math

import numpy as np

MOST = 1_000_000  # rank sums that an exact answer may look at: half a second
DRAWS = 100_000  # the standard error of p = 0.05 is then 0.0007


def friedman_p(ranks: np.ndarray) -> tuple[float, int]:
    """P(as large a spread of rank sums, or a larger one) when each task's ranks are in random order.

    Args:
        ranks: `[tasks, methods]`, mid-ranks of each task.

    Returns:
        p, and the number of random permutations that it is from; 0 where it is exact.
    """
    doubled = np.rint(2 * np.asarray(ranks)).astype(np.int64)  # mid-ranks are halves: integers compare exactly
    observed = _spread(doubled.sum(axis=0, keepdims=True))[0]
    exact = _exact(doubled)
    if exact is not None:
        sums, chances = exact
        return float(min(1.0, chances[_spread(sums) >= observed].sum())), 0
    rng = np.random.default_rng(0)
    sums = np.zeros((DRAWS, doubled.shape[1]), np.int64)
    for row in doubled:
        sums += rng.permuted(np.tile(row, (DRAWS, 1)), axis=1)
    return float((1 + (_spread(sums) >= observed).sum()) / (1 + DRAWS)), DRAWS


def _spread(sums: np.ndarray) -> np.ndarray:
    """Of rank sums `[..., methods]`; chi-squared rises with it, all else being the same in every permutation."""
    return (sums**2).sum(axis=-1)


def _exact(doubled: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Every sum of rows in any order, sorted, and its chance; None where there are more than MOST to look at.

    Which method has which sum does not matter, so that sums are kept sorted, and the first row stays as it is.
    """
    tasks, methods = doubled.shape
    base = 2 * tasks * methods + 1  # above every sum: a row of sums is one number
    if base**methods > np.iinfo(np.int64).max:
        return None
    places = base ** np.arange(methods)
    sums, looked_at = np.sort(doubled[:1], axis=1), 0
    chances: np.ndarray = np.ones(1)
    for row in doubled[1:]:
        counts = np.unique(row, return_counts=True)[1].tolist()
        looked_at += len(sums) * math.factorial(methods) // math.prod(map(math.factorial, counts))
        if looked_at > MOST:
            return None
        orders = np.array(_orders(tuple(row.tolist())))
        every = np.sort((sums[:, None, :] + orders).reshape(-1, methods), axis=1)
        _, first, inverse = np.unique(every @ places, return_index=True, return_inverse=True)
        chances = np.bincount(inverse.ravel(), np.repeat(chances / len(orders), len(orders)))
        sums = every[first]
    return sums, chances


def _orders(values: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The different orders of some values, equal ones among them."""
    if not values:
        return [()]
    found = []
    for value in dict.fromkeys(values):
        at = values.index(value)
        found += [(value, *rest) for rest in _orders(values[:at] + values[at + 1 :])]
    return found
