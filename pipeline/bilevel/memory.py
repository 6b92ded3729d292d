"""How much memory is left: of a GPU, or of the host and the share of it that a scheduler allows."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_GROUPS = Path("/sys/fs/cgroup")
# limit and use, by version 2 and version 1 of control groups
_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on ``device``, as far as the system says."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    try:
        facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(facts["MemAvailable"].split()[0]) * 1024  # free, or given back by the page cache
        groups = [line.split(":") for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except (OSError, KeyError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    roots = [(_GROUPS / kind if kind else _GROUPS, path.strip("/")) for _, kind, path in groups]
    allowed = [left for root, path in roots for left in _left(root, path)]
    return max(0, min([available, *allowed]))


def _left(root: Path, path: str) -> list[int]:
    """What the limits of a control group and of those around it leave; nothing where there are none."""
    found = []
    for folder in (root / path, *(root / path).parents):
        for limit, used in _FILES:
            try:
                found.append(int((folder / limit).read_text()) - int((folder / used).read_text()))
            except (OSError, ValueError):  # no such file, or the word "max"
                continue
        if folder == root:
            break
    return found
