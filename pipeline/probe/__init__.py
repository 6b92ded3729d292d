"""A measured slice of one cell, in a process of its own: ``python -m pipeline.probe REQUEST ANSWER`` (JSON files).

A few outer steps, a few training steps, a few batches that are scored: enough to know how fast each kind of work
(:class:`pipeline.work.cells.Work`) is here, how long a cell takes before it begins, and how much memory it needs.
Everything is done by the functions that the stages themselves call. One file per kind of cell.
"""

from pipeline.probe.cells import probe_distill, probe_evaluate

__all__ = ["probe_distill", "probe_evaluate"]
