"""Whether claimed scores hold for students that were trained anew.

A claim is the mean and the sample standard deviation of n students. New students of the same set are drawn from the
same population if it is true, so that the mean of m of them falls into the prediction interval

    mean ± t(n − 1) · std · sqrt(1/n + 1/m)

(Hahn and Meeker, *Statistical Intervals*, 1991, chapter 4), and the ratio of the variances follows F(m − 1, n − 1).
Levels are divided by the number of comparisons (Bonferroni): if all claims are true, one of them is refused in at most
1 % of cases. Both distributions are those of normal values; scores of students are only roughly normal.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import InputError
from pipeline.report.card.facts import Score

LEVEL = 0.99
Measured = Mapping[tuple[str, str], Sequence[float]]  # (split, metric) -> values of the students


@dataclass(frozen=True)
class Check:
    """One claimed number, what was measured, and the interval that holds it if the claim is true.

    Attributes:
        claim: whose number it is.
        of: which: ``mean`` or ``std``.
        claimed, measured, low, high: in the units of the metric.
        n: students measured.

    """

    claim: Score
    of: str
    claimed: float
    measured: float
    low: float
    high: float
    n: int

    @property
    def holds(self) -> bool:
        """Whether the measured number is in the interval; not-a-number never is."""
        return self.low <= self.measured <= self.high


def checks(claims: Sequence[Score], measured: Measured, sizes: Mapping[str, int], headline: str) -> list[Check]:
    """All comparisons: the mean of every claim, and the spread of the headline metric.

    A mean within one row of the split holds whatever the interval: machines round differently. Where one student was
    claimed, the spread of the new ones is taken; where there is one of these too, only a mean within one row holds.

    Args:
        claims: of one protocol.
        measured: values of new students.
        sizes: rows of every split.
        headline: the task's metric.

    Raises:
        InputError: a claim that was not measured.

    """
    missing = [f"{claim.split} {claim.metric}" for claim in claims if (claim.split, claim.metric) not in measured]
    if missing:
        raise InputError(f"the card claims {', '.join(missing)}, which this version does not measure; write it anew")
    spreads = [c for c in claims if c.metric == headline and c.std and len(measured[c.split, c.metric]) > 1]
    tail = (1 - LEVEL) / (len(claims) + len(spreads)) / 2
    found = [_mean(claim, measured[claim.split, claim.metric], tail, 1 / sizes[claim.split]) for claim in claims]
    return found + [_spread(claim, measured[claim.split, claim.metric], tail) for claim in spreads]


def _mean(claim: Score, values: Sequence[float], tail: float, row: float) -> Check:
    from scipy.stats import t

    n, m, mean = claim.n, len(values), statistics.fmean(values)
    if claim.std is not None:
        half = claim.std * math.sqrt(1 / n + 1 / m) * float(t.ppf(1 - tail, n - 1))
    elif m > 1:  # one student was claimed: what new ones vary by says how far it may be from them
        half = statistics.stdev(values) * math.sqrt(1 / n + 1 / m) * float(t.ppf(1 - tail, m - 1))
    else:
        half = 0.0
    half = max(half, row)
    return Check(claim, "mean", claim.mean, mean, claim.mean - half, claim.mean + half, m)


def _spread(claim: Score, values: Sequence[float], tail: float) -> Check:
    from scipy.stats import f

    assert claim.std is not None
    freedom = len(values) - 1, claim.n - 1
    low, high = (claim.std * math.sqrt(float(f.ppf(p, *freedom))) for p in (tail, 1 - tail))
    return Check(claim, "std", claim.std, statistics.stdev(values), low, high, len(values))
