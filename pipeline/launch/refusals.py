"""What a cluster will not take, or takes for nothing, said before anything is submitted."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.config.cluster_file import DEFAULT_PATH
from pipeline.config.resources import Request
from pipeline.launch.machine import said


def refused(asked: Mapping[str, Request]) -> list[str]:
    """What SLURM says against each of some jobs; equal requests are tried once, and nothing is submitted.

    Args:
        asked: name -> what its job asks for.

    """
    names: dict[Request, list[str]] = {}
    for name, request in asked.items():
        names.setdefault(request, []).append(name)
    found: dict[str, list[str]] = {}
    for request, its in names.items():
        lines = request.sbatch_lines("textdd-test", "/dev/null")
        error = said("sbatch", "--test-only", given="\n".join(["#!/bin/bash", *lines, "true\n"]))[1]
        if error is not None:
            found.setdefault(error.removeprefix("allocation failure: "), []).extend(its)
    return [f"{', '.join(its)}: {error}" for error, its in found.items()]


def mended(reason: str, file: str | None) -> str:
    """What to do about a refusal: the file to correct and, where it is about them, the partitions that there are.

    Args:
        reason: SLURM's words.
        file: of ``--cluster-file``.

    """
    partitions = said("sinfo", "--noheader", "--format=%R")[0].split() if "partition" in reason.lower() else []
    there = f" (account, partition; the partitions here are {', '.join(sorted(partitions))})" if partitions else ""
    return f"correct {file or DEFAULT_PATH}{there}"


def short_slots(asked: Mapping[str, Request]) -> list[str]:
    """A sentence for every job whose time limit leaves it no time to work; arguments as :func:`refused`."""
    return [f"{name}: {request.too_short}" for name, request in asked.items() if request.too_short is not None]
