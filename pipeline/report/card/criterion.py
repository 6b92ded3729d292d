"""Whether claimed scores hold for students that were trained anew.

A claim is the mean and the sample standard deviation of n students. If it is true, m new students of the same set are
drawn from the same population: the difference of the means is within t(n + m − 2) · s · sqrt(1/n + 1/m), s pooled over
both (Student's two-sample test, which needs no more of the claim than a card has), and the ratio of the variances
within that of F(m − 1, n − 1), so that a spread made up to let any mean pass is found. Levels are divided by the number
of comparisons (Bonferroni): if all claims of a protocol are true, one of them is refused in at most 1 % of cases. Both
distributions are those of normal values; scores of students are only roughly normal.
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

    Both may be off by one row of the split, whatever the intervals: machines round differently. Where there is one
    student on either side, that is all that a mean may be off by.

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
    spreads = [c for c in claims if c.metric == headline and c.n > 1 and len(measured[c.split, c.metric]) > 1]
    tail = (1 - LEVEL) / (len(claims) + len(spreads)) / 2
    found = [_mean(claim, measured[claim.split, claim.metric], tail, 1 / sizes[claim.split]) for claim in claims]
    return found + [_spread(c, measured[c.split, c.metric], tail, 1 / sizes[c.split]) for c in spreads]


def _mean(claim: Score, values: Sequence[float], tail: float, row: float) -> Check:
    from scipy.stats import t

    n, m, mean = claim.n, len(values), statistics.fmean(values)
    freedom, half = n + m - 2, 0.0
    if freedom:
        squares = (n - 1) * (claim.std or 0.0) ** 2 + (m - 1) * (statistics.variance(values) if m > 1 else 0.0)
        half = float(t.ppf(1 - tail, freedom)) * math.sqrt(squares / freedom * (1 / n + 1 / m))
    half = max(half, row)
    return Check(claim, "mean", claim.mean, mean, claim.mean - half, claim.mean + half, m)


def _spread(claim: Score, values: Sequence[float], tail: float, row: float) -> Check:
    from scipy.stats import f

    std, freedom = claim.std or 0.0, (len(values) - 1, claim.n - 1)
    low, high = (std * math.sqrt(float(f.ppf(p, *freedom))) for p in (tail, 1 - tail))
    return Check(claim, "std", std, statistics.stdev(values), max(0.0, low - row), high + row, len(values))
