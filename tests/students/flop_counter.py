"""FLOPs as torch counts them while something runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


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
