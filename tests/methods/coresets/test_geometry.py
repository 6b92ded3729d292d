"""Rules on vectors against brute force, and what every one of them must keep."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from statistics import median_low

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin

from pipeline.config import Herding, KCentres, Moderate
from pipeline.methods.coresets import geometry
from pipeline.methods.coresets.geometry import (
    herding,
    k_centres,
    moderate,
    nearest_to_centroids,
    pick,
    squared_distances,
)
from pipeline.randomness import derive

RULES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "herding": herding,
    "k-centres": lambda vectors, count: k_centres(vectors, count, 0),
    "k-means": lambda vectors, count: nearest_to_centroids(vectors, count, 1),
    "moderate": moderate,
}
SIZES = st.tuples(st.integers(0, 10_000), st.integers(6, 25), st.integers(1, 6))


def clouds(seed: int, rows: int, width: int = 3) -> np.ndarray:
    """Rows around a point away from the origin, of unequal spread."""
    random = np.random.default_rng(seed)
    return (5 + random.normal(size=(rows, width)) * random.uniform(0.2, 2, size=width)).astype(np.float32)


def brute_herding(vectors: np.ndarray, count: int) -> list[int]:
    rows: list[int] = []
    for k in range(1, count + 1):
        gaps = [
            np.linalg.norm(vectors.mean(axis=0) - vectors[[*rows, row]].sum(axis=0) / k) if row not in rows else np.inf
            for row in range(len(vectors))
        ]
        rows.append(int(np.argmin(gaps)))
    return rows


def brute_k_centres(vectors: np.ndarray, count: int, start: int) -> list[int]:
    rows = [start]
    while len(rows) < count:
        rows.append(int(cdist(vectors, vectors[rows]).min(axis=1).argmax()))
    return rows


def brute_moderate(vectors: np.ndarray, count: int) -> list[int]:
    distances = cdist(vectors, vectors.mean(axis=0, keepdims=True))[:, 0]
    ranks = sorted(range(len(vectors)), key=lambda row: (abs(distances[row] - median_low(distances)), row))
    return ranks[:count]


@settings(max_examples=150, deadline=None)
@given(sizes=SIZES)
def test_rules_are_what_brute_force_finds(sizes: tuple[int, int, int]) -> None:
    seed, rows, count = sizes
    vectors = clouds(seed, rows)
    exact = vectors.astype(np.float64)
    assert herding(vectors, count).tolist() == brute_herding(exact, count)
    assert k_centres(vectors, count, seed % rows).tolist() == brute_k_centres(exact, count, seed % rows)
    assert moderate(vectors, count).tolist() == brute_moderate(exact, count)


def test_distances_are_exact_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far from the origin, where ‖x‖² − 2 x·p + ‖p‖² in float32 would leave nothing."""
    vectors = clouds(1, 50) + np.float32(1000)
    monkeypatch.setattr(geometry, "_BLOCK", 7)
    wanted = cdist(vectors.astype(np.float64), vectors[3:4].astype(np.float64), "sqeuclidean")[:, 0]
    np.testing.assert_allclose(squared_distances(vectors, vectors[3]), wanted, rtol=1e-12)


def test_herding_comes_nearer_to_the_mean_than_chance() -> None:
    vectors = clouds(3, 200, width=8)
    random = np.random.default_rng(0)

    def gap(rows: np.ndarray) -> float:
        return float(np.linalg.norm(vectors[rows].mean(axis=0) - vectors.mean(axis=0)))

    chance = [gap(random.choice(200, 10, replace=False)) for _ in range(100)]
    assert gap(herding(vectors, 10)) < min(chance)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 4))
def test_k_centres_cover_within_twice_the_best_radius(seed: int, count: int) -> None:
    vectors = clouds(seed, 11)
    distances = cdist(vectors, vectors)

    def radius(rows: tuple[int, ...]) -> float:
        return float(distances[:, list(rows)].min(axis=1).max())

    best = min(radius(rows) for rows in itertools.combinations(range(11), count))
    found = radius(tuple(k_centres(vectors, count, seed % 11)))
    assert best <= found <= 2 * best * (1 + 1e-6)


def test_k_means_gives_the_rows_nearest_to_scikit_learns_centroids() -> None:
    vectors = np.concatenate([clouds(seed, 30) + np.float32(20 * seed) for seed in range(4)])
    found = nearest_to_centroids(vectors, 4, seed=7)
    assert sorted(row // 30 for row in found.tolist()) == [0, 1, 2, 3], "one of every cloud"
    for seed in range(5):  # in one cloud, where another start ends elsewhere
        centroids = KMeans(4, init="k-means++", n_init=1, random_state=seed).fit(vectors[:30]).cluster_centers_
        wanted = pairwise_distances_argmin(centroids, vectors[:30])
        assert nearest_to_centroids(vectors[:30], 4, seed).tolist() == wanted.tolist()


def test_a_row_nearest_to_two_centroids_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice:
        def __init__(self, count: int, **options: object) -> None:
            self.cluster_centers_ = np.array([[0.0, 0.0], [0.1, 0.0]])

        def fit(self, vectors: np.ndarray) -> Twice:
            return self

    monkeypatch.setattr(geometry, "KMeans", Twice)
    vectors = np.array([[9.0, 9.0], [0.0, 0.0], [2.0, 0.0]], dtype=np.float32)
    assert nearest_to_centroids(vectors, 2, seed=0).tolist() == [1, 2]


@pytest.mark.parametrize("name", ["herding", "k-centres", "moderate"])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(6, 25), count=st.integers(1, 6))
def test_the_order_of_rows_does_not_matter(name: str, seed: int, rows: int, count: int) -> None:
    vectors = clouds(seed, rows)
    order = np.random.default_rng(seed).permutation(rows)
    if name == "k-centres":  # the same row to start from
        found, moved = k_centres(vectors, count, int(order[0])), k_centres(vectors[order], count, 0)
    else:
        found, moved = RULES[name](vectors, count), RULES[name](vectors[order], count)
    assert order[moved].tolist() == found.tolist()


@pytest.mark.parametrize("name", ["herding", "k-centres", "moderate"])
def test_a_smaller_set_is_the_beginning_of_a_larger_one(name: str) -> None:
    vectors = clouds(2, 30)
    assert RULES[name](vectors, 3).tolist() == RULES[name](vectors, 9)[:3].tolist()


@pytest.mark.parametrize("name", RULES)
def test_every_row_is_chosen_once_even_where_all_are_equal(name: str) -> None:
    vectors = np.ones((5, 3), dtype=np.float32)
    with np.errstate(all="raise"):
        assert sorted(RULES[name](clouds(1, 5), 5)) == [0, 1, 2, 3, 4]
    if name != "k-means":  # which refuses fewer points than centres
        assert RULES[name](vectors, 5).tolist() == [0, 1, 2, 3, 4], "ties go to the lower row"


def test_ties_of_moderate_go_to_the_lower_row() -> None:
    """Distances 3, 1, 1, 3, 5, 5 from the mean: the middle two are 3 and 3, and 1 and 5 are equally far from that."""
    vectors = np.array([[3.0], [1.0], [-1.0], [-3.0], [5.0], [-5.0]], dtype=np.float32)
    assert moderate(vectors, 4).tolist() == [0, 3, 1, 2]
    assert moderate(vectors[[0, 1, 2, 3]], 4).tolist() == [1, 2, 0, 3], "3, 1, 1, 3: the lower median is 1"


def test_methods_name_their_rules() -> None:
    vectors = clouds(5, 40)
    nearest = int(cdist(vectors, vectors.mean(axis=0, keepdims=True)).argmin())

    def chosen(method: Herding | KCentres | Moderate, seed: int = 0, label: int = 0) -> list[int]:
        return pick(method, vectors, 4, seed, label).tolist()

    assert chosen(Herding(name="herding")) == herding(vectors, 4).tolist()
    assert chosen(Moderate(name="moderate")) == moderate(vectors, 4).tolist()
    assert chosen(KCentres(name="k_centres")) == k_centres(vectors, 4, nearest).tolist()
    drawn = KCentres(name="k_centres", start="random")
    starts = [[chosen(drawn, seed, label)[0] for seed in range(5)] for label in range(2)]
    assert starts[0] != starts[1]
    assert len({*starts[0], *starts[1]}) > 4
    assert chosen(drawn, 3) == chosen(drawn, 3)
    clustered = KCentres(name="k_centres", centres="kmeans")
    assert chosen(clustered, 3, 1) == nearest_to_centroids(vectors, 4, derive(3, "k-means", 1) % 2**32).tolist()
    assert len({tuple(sorted(chosen(clustered, seed))) for seed in range(5)}) > 1
