"""The rows of the hypergradient benchmark and what is asked of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from pipeline.students.flops import Sizes

BASELINES = ("published", "published-lean")
REAL = (32, 64)  # rows and tokens of the real batch
SIZES = {  # of two classes
    "minilm": Sizes(6, 384, 1536, 12, classes=2, embedding=384),
    "bert-base": Sizes(12, 768, 3072, 12, classes=2, embedding=768),
}
FLOOR = 1.3  # times the floor: the aim
OURS = ("fused", "fused-disk", "fused-recompute")  # the fast path, wherever its snapshots lie


@dataclass(frozen=True)
class Row:
    """One line of the table: M samples of S tokens, T inner steps."""

    model: str
    M: int
    S: int
    T: int

    @classmethod
    def parse(cls, text: str) -> Row:
        """``minilm:4:512:1``."""
        model, *size = text.split(":")
        if model not in SIZES or len(size) != 3:
            raise ValueError(f"{text}: a row is model:M:S:T with model one of {', '.join(SIZES)}")
        return cls(model, *map(int, size))

    @property
    def size(self) -> tuple[int, int, int]:
        """(M, S, T)."""
        return self.M, self.S, self.T


@dataclass(frozen=True)
class Target:
    """How many times faster and smaller than a baseline ``fused`` has to be; ``None`` where nothing is asked."""

    row: Row
    baseline: str
    time: float | None
    memory: float | None
    precision: str = "fp32"
    device: str = "cpu"


TARGETS = (
    Target(Row("minilm", 4, 512, 1), "published", 3.5, 4.5),
    Target(Row("minilm", 4, 512, 1), "published-lean", 1.8, 3.0),
    Target(Row("minilm", 4, 128, 1), "published", 2.5, None),
    Target(Row("minilm", 4, 512, 5), "published", 3.5, 9.0),
    Target(Row("minilm", 4, 512, 5), "published-lean", 1.8, 3.0),
    Target(Row("minilm", 4, 128, 20), "published", 2.2, 6.0),
    Target(Row("bert-base", 2, 512, 1), "published", 3.0, 2.5),
    Target(Row("bert-base", 4, 512, 1), "published", 1.5, None, "fp32", "cuda"),
    Target(Row("bert-base", 4, 512, 1), "published", 2.0, None, "tf32", "cuda"),
    Target(Row("bert-base", 4, 512, 5), "published", 1.5, None, "fp32", "cuda"),
    Target(Row("bert-base", 4, 512, 5), "published", 2.0, None, "tf32", "cuda"),
)
# Peak memory at the second row over that at the first, with snapshots on disk or recomputed.
GROWTH = (Row("minilm", 4, 512, 5), Row("minilm", 4, 512, 50), 1.2)
SHORT = (Row("minilm", 4, 128, 1), Row("minilm", 4, 512, 1))


def rows(device: str) -> list[Row]:
    """All rows, those with a target first, then from cheap to dear."""
    wanted = [target.row for target in TARGETS if target.device == device]
    if device == "cpu":
        wanted.append(GROWTH[1])
    every = [Row(*sizes) for sizes in product(SIZES, (2, 4, 20), (64, 128, 512), (1, 3, 5, 10, 20, 50))]
    every.sort(key=lambda row: (list(SIZES).index(row.model), row.M * row.S * row.T))
    return list(dict.fromkeys([*wanted, *every]))


def verdicts(lines: Sequence[Mapping[str, str]], device: str) -> list[str]:
    """One sentence per target and thread count, from the CSV's lines of this machine: met, not met, or not measured."""
    found = []
    for threads, target in product(sorted({line["threads"] for line in lines}), TARGETS):
        if target.device != device:
            continue
        names = (target.row.model, *map(str, target.row.size), threads, target.precision, target.baseline)
        columns = ("model", "M", "S", "T", "threads", "precision", "baseline")
        here = [
            line
            for line in lines
            if tuple(line[column] for column in columns) == names and line["estimator"] in OURS and line["time_ratio"]
        ]
        # one run has to meet both: that of the three places for snapshots which is nearest to it
        best = max(here, key=lambda line: _reached(line, target), default=None)
        for what, asked in (("time", target.time), ("memory", target.memory)):
            if asked is None:
                continue
            place = f"{target.row.model} M={target.row.M} S={target.row.S} T={target.row.T} {target.precision}"
            by = "" if best is None else f", by {best['estimator']}"
            against = f"{what} against {target.baseline}, threads {threads}{by}"
            ratio = "" if best is None else best[f"{what}_ratio"]
            found.append(f"{_verdict(float(ratio) if ratio else None, asked)}  {place}: {against}")
    return found + (_growth(lines) if device == "cpu" else [])


def _reached(line: Mapping[str, str], target: Target) -> float:
    """The smaller of what was reached of the two ratios that are asked for."""
    asked = {"time_ratio": target.time, "memory_ratio": target.memory}
    return min(float(line[name] or 0) / wanted for name, wanted in asked.items() if wanted is not None)


def _verdict(reached: float | None, asked: float) -> str:
    if reached is None:
        return f"{'not measured':<12}      - of {asked:4.1f} x"
    return f"{'met' if reached >= asked else 'NOT MET':<12} {reached:6.2f} of {asked:4.1f} x"


def _growth(lines: Sequence[Mapping[str, str]]) -> list[str]:
    """Memory at T = 50 against T = 5."""
    short, long, limit = GROWTH
    found = []
    for threads in sorted({line["threads"] for line in lines}):
        peaks = [
            [
                float(line["peak_mb"])
                for line in lines
                if (line["model"], line["M"], line["S"], line["T"]) == (row.model, *map(str, row.size))
                and line["threads"] == threads
                and line["peak_mb"]
                and line["estimator"] in OURS
            ]
            for row in (short, long)
        ]
        place = f"{short.model} M={short.M} S={short.S}: peak at T={long.T} over T={short.T}, threads {threads}"
        if all(peaks):
            ratio = min(peaks[1]) / min(peaks[0])
            found.append(f"{'met' if ratio <= limit else 'NOT MET':<12} {ratio:6.2f} <= {limit:4.1f} x  {place}")
        else:
            found.append(f"{'not measured':<12}      - <= {limit:4.1f} x  {place}")
    return found
