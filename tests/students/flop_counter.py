"""FLOPs as torch counts them while something runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline import stage1_prepare, stage2_distill, stage3_evaluate
from pipeline.config import Evaluate
from pipeline.store import Store


def counted(work: Callable[[], object]) -> float:
    """By torch, with the products that it does not know: those through oneDNN and fused attention on a CPU."""

    def product(x: Any, *_: Any, out_shape: Any, **__: Any) -> float:
        return 2 * math.prod(out_shape) * x[-1]

    def attention(query: Any, *_: Any, **__: Any) -> float:
        return 4 * math.prod(query) * query[-2]

    known = {
        torch.ops.mkldnn._linear_pointwise: product,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
    }
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        work()
    return float(counter.get_total_flops())


def counted_stages(cell: Evaluate, store: Store) -> list[float]:
    """Of the three stages that a cell takes, run in this process."""
    found = []
    for stage, config in (
        (stage1_prepare, cell.source.source),
        (stage2_distill, cell.source),
        (stage3_evaluate, cell),
    ):
        with store.cell(config).claim() as out:
            assert out is not None
            found.append(counted(lambda stage=stage, config=config, out=out: stage.run(config, out)))
    return found
