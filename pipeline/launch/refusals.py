"""What a cluster will not take, or takes for nothing, said before anything is submitted."""

from __future__ import annotations

import re
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
    """What to do about a refusal: the file to correct and, where it is about them, what partitions or nodes there are.

    A limit on jobs or on what is submitted is met by fewer of them.

    Args:
        reason: SLURM's words.
        file: of ``--cluster-file``.

    """
    if re.search(r"SubmitJob|MaxJob|JobsLimit", reason):
        return f"make fewer jobs of it (cells_per_job in {file or DEFAULT_PATH}, or run --only KEY=VALUE)"
    if re.search(r"node configuration|can ?not be satisfied", reason) and (nodes := _largest_nodes()):
        return f"correct {file or DEFAULT_PATH} (cpus, memory_gb, gpus; the largest nodes here have {nodes})"
    partitions = said("sinfo", "--noheader", "--format=%R")[0].split() if "partition" in reason.lower() else []
    there = f" (account, partition; the partitions here are {', '.join(sorted(partitions))})" if partitions else ""
    return f"correct {file or DEFAULT_PATH}{there}"


def _largest_nodes() -> str:
    """CPUs, memory and GPUs of the nodes that have no less of any of them than another has, at most three kinds."""
    kinds: dict[tuple[int, int, int], str] = {}
    nodes = said("sinfo", "--Node", "--noheader", "--format=%c %m %G")[0]
    for cpus, memory, resources in re.findall(r"^(\d+)\+? (\d+)\+? (.+)$", nodes, re.MULTILINE):
        gpus = re.findall(r"gpu(?::[A-Za-z][\w.-]*)?:(\d+)", resources)
        known = re.sub(r"\([^)]*\)", "", resources).strip()  # without the cores that they are near to, and "(null)"
        kinds[int(cpus), int(memory), sum(map(int, gpus))] = known if gpus else "no GPU"
    largest = [one for one in kinds if not any(_covers(other, one) for other in kinds if other != one)]
    return " or ".join(
        f"{one[0]} CPUs, {one[1]} MB (memory_gb: {one[1] // 1024}), {kinds[one]}"
        for one in sorted(largest, reverse=True)[:3]
    )


def _covers(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(ours >= theirs for ours, theirs in zip(one, other, strict=True))


def short_slots(asked: Mapping[str, Request]) -> list[str]:
    """A sentence for every job whose time limit leaves it no time to work; arguments as :func:`refused`."""
    return [f"{name}: {request.too_short}" for name, request in asked.items() if request.too_short is not None]
