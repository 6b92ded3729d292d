"""Rules that choose rows by where their vectors lie.

All take the vectors [n, d] of one class and return positions in the order of choosing. Distances are computed in
float64, in blocks of rows; of equal ones the lower row counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.cluster import KMeans

from pipeline.config import ByVectors, Herding, KCentres, Moderate
from pipeline.methods.budgets import Integers
from pipeline.randomness import derive, numpy_generator

Matrix = np.ndarray[Any, np.dtype[np.float32]]
Vector = np.ndarray[Any, np.dtype[np.float64]]
_BLOCK = 8192  # rows in float64 at a time


def pick(method: ByVectors, vectors: Matrix, count: int, seed: int, label: int) -> Integers:
    """``count`` positions by the rule that ``method`` names; (seed, label) decide what it draws."""
    if isinstance(method, Herding):
        return herding(vectors, count)
    if isinstance(method, Moderate):
        return moderate(vectors, count)
    assert isinstance(method, KCentres)
    if method.centres == "kmeans":
        return nearest_to_centroids(vectors, count, derive(seed, "k-means", label) % 2**32)
    if method.start == "random":
        return k_centres(vectors, count, int(numpy_generator(seed, "first centre", label).integers(len(vectors))))
    return k_centres(vectors, count, int(squared_distances(vectors, mean(vectors)).argmin()))


def herding(vectors: Matrix, count: int) -> Integers:
    """Greedy: the k-th row makes the mean of the chosen come nearest to the mean of all.

    Welling, "Herding dynamical weights to learn" (ICML 2009), without replacement and with the Euclidean criterion of
    iCaRL (Rebuffi et al., CVPR 2017, algorithm 4): argmin_x ‖μ − (x + Σ chosen) / k‖. Vectors are not normalised.
    """
    centre, chosen = mean(vectors), np.zeros(vectors.shape[1])
    rows: list[int] = []
    for k in range(1, count + 1):
        distances = squared_distances(vectors, k * centre - chosen)
        distances[rows] = np.inf
        rows.append(int(distances.argmin()))
        chosen += vectors[rows[-1]]
    return np.asarray(rows, dtype=np.int64)


def k_centres(vectors: Matrix, count: int, start: int) -> Integers:
    """Greedy: always the row farthest from the nearest of the chosen, from ``start`` on.

    Within twice the best possible covering radius (Gonzalez, 1985); for coresets Sener and Savarese (ICLR 2018,
    algorithm 1).
    """
    rows = [start]
    nearest = squared_distances(vectors, vectors[start])
    while len(rows) < count:
        nearest[rows[-1]] = -1.0  # also where others lie at distance 0, a row is chosen once
        rows.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, squared_distances(vectors, vectors[rows[-1]]))
    return np.asarray(rows, dtype=np.int64)


def nearest_to_centroids(vectors: Matrix, count: int, seed: int) -> Integers:
    """The row nearest to each centroid of k-means (k-means++, one start), as DiLM's code does; none twice."""
    rows: list[int] = []
    for centroid in centroids(vectors, count, seed):
        distances = squared_distances(vectors, centroid)
        distances[rows] = np.inf
        rows.append(int(distances.argmin()))
    return np.asarray(rows, dtype=np.int64)


def centroids(vectors: Matrix, count: int, seed: int) -> Matrix:
    """[count, D] of k-means (k-means++, one start)."""
    found: Matrix = KMeans(count, init="k-means++", n_init=1, random_state=seed).fit(vectors).cluster_centers_
    return found


def moderate(vectors: Matrix, count: int) -> Integers:
    """The rows whose distance from the mean is nearest to the median distance (Xia et al., ICLR 2023).

    The median of an even number is the lower of the middle two: both are equally far from their midpoint, so that
    rounding would choose between them.
    """
    distances = np.sqrt(squared_distances(vectors, mean(vectors)))
    median = np.sort(distances)[(len(distances) - 1) // 2]
    return np.argsort(np.abs(distances - median), kind="stable")[:count].astype(np.int64)


def mean(vectors: Matrix) -> Vector:
    """[d]."""
    return np.asarray(vectors.mean(axis=0, dtype=np.float64))


def squared_distances(vectors: Matrix, point: np.ndarray[Any, Any]) -> Vector:
    """[n] squared Euclidean distances from ``point``; not by ‖x‖² − 2 x·p + ‖p‖², which cancels."""
    found = np.empty(len(vectors))
    for start in range(0, len(vectors), _BLOCK):
        gap = vectors[start : start + _BLOCK] - point.astype(np.float64)
        found[start : start + _BLOCK] = np.einsum("nd,nd->n", gap, gap)
    return found
