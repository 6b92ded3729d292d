"""The outer loss of a set over its outer steps, as little of its ``log.csv`` as its figure needs.

At most ``POINTS`` points of the running mean, and every point that was measured on dev. Few enough to be committed with
the runs (``pipeline.report.archive``): a loss curve is the same from these as from the store.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd

POINTS = 100  # the running mean has 20 independent ones
SMALLEST = 10  # steps of a running mean
COLUMNS = ["step", "mean", "validation_loss"]
Points = npt.NDArray[np.float32]


def read(log: Path) -> Points | None:
    """[points, 3]: outer step, running mean of the loss, loss on dev (nats; nan where it was not measured).

    Args:
        log: ``log.csv`` of a set.

    Returns:
        None where there is no such file, or none of losses.

    """
    if not log.is_file():
        return None
    frame = pd.read_csv(log)
    if not {"step", "loss"} <= set(frame.columns):
        return None
    frame["mean"] = smoothed(frame["loss"])
    if "validation_loss" not in frame:
        frame["validation_loss"] = np.nan
    shown = np.unique(np.linspace(0, len(frame) - 1, min(POINTS, len(frame))).round().astype(int))
    kept = frame.index.isin(shown) & frame["mean"].notna() | frame["validation_loss"].notna()
    return frame.loc[kept, COLUMNS].to_numpy(np.float32)


def smoothed(loss: pd.Series[float]) -> pd.Series[float]:
    """The mean of the last twentieth of all steps, ten at least, at every step from the first full one on."""
    return loss.rolling(max(SMALLEST, len(loss) // 20), min_periods=min(SMALLEST, len(loss))).mean()


def put(group: h5py.Group, name: str, points: Points) -> None:
    """Writes the points of a set, one dataset per set."""
    group.create_dataset(name, data=points, compression="gzip", compression_opts=9, shuffle=True)


def get(group: h5py.Group, name: str) -> Points | None:
    """What was written of a set, None where nothing was."""
    return group[name][:] if name in group else None
