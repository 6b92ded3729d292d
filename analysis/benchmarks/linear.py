"""GEMM rates of torch's default float32 linear layer and of oneDNN's, forward and backward.

    python analysis/benchmarks/linear.py [threads …]

Printed on the development machine (2 virtual CPU cores with AVX-512, torch 2.13 CPU build, 1,024 x 384 x 1,536):

    1 threads  default  forward    95  forward and backward   105 GFLOP/s
    1 threads  oneDNN   forward   250  forward and backward   226 GFLOP/s
    2 threads  default  forward   223  forward and backward   208 GFLOP/s
    2 threads  oneDNN   forward   492  forward and backward   424 GFLOP/s
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from pipeline.students.linear import use_onednn

ROWS, WIDTH, OUT = 1024, 384, 1536


def rate(run: Callable[[], object], flop: float, repeats: int = 40) -> float:
    """GFLOP/s over ``repeats`` calls after five warm-up calls."""
    for _ in range(5):
        run()
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    return flop * repeats / (time.perf_counter() - began) / 1e9


def main() -> None:
    """Prints one line per thread count and backend."""
    for threads in [int(word) for word in sys.argv[1:]] or [1, torch.get_num_threads()]:
        torch.set_num_threads(threads)
        for name in ("default", "oneDNN"):
            layer = nn.Linear(WIDTH, OUT)
            if name == "oneDNN":
                use_onednn(layer)
            x = torch.randn(ROWS, WIDTH, requires_grad=True)
            flop = 2.0 * ROWS * WIDTH * OUT
            upstream = torch.randn(ROWS, OUT)
            with torch.no_grad():
                forward = rate(lambda layer=layer, x=x: layer(x), flop)
            both = rate(lambda layer=layer, x=x, u=upstream: layer(x).backward(u), 3 * flop)
            print(f"{threads} threads  {name:<8} forward {forward:5.0f}  forward and backward {both:5.0f} GFLOP/s")


if __name__ == "__main__":
    main()
