"""Does torch.compile pay in the fused passes? Their element-wise parts, as they are and compiled.

    python -m analysis.benchmarks.compiled [threads …]

Run from the repository root. Lines of this machine in ``results/compiled.csv`` are replaced: microseconds per call of
MiniLM's shapes (chunks of 512 tokens, heads of 512 x 512), the seconds that compiling took, those of an outer step
(M = 4, S = 512, T = 1), and the share of it that compiling this part would save. The passes use torch's own fused
kernels (layer norm, gelu, softmax and their backward passes), in place where they can, so that little is left to gain:
no compiler is used. Lines without hardware are older: their step was not measured with them, but set to 3.0 and 1.9 s.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analysis.benchmarks.measure import RESULTS, Table, hardware, versions
from analysis.benchmarks.problem import LearnedTensors, load, outer_step, real_batch
from pipeline.bilevel.fused import elementwise
from pipeline.students.device import keep_freed_memory

TOKENS, WIDTH, FEED_FORWARD, KEYS = 512, 384, 1536, 512
LAYERS, CHUNKS, HEADS = 5, 4, 12 * 4 * 5  # full layers; chunks of the inner batch; heads of all samples and layers
STEP = (4, 512, 1)  # M, S, T
KEY = ("threads", "part", "hardware")
COLUMNS = (
    *("threads", "part", "eager_us", "compiled_us", "compile_seconds", "step_seconds", "saved_percent_of_step"),
    *("hardware", "versions"),
)


def softmax_back_tangent(s: Tensor, p_t: Tensor, dp: Tensor, dp_t: Tensor, D: Tensor, D_t: Tensor) -> Any:
    """The element-wise part of the longest attention pass, as attention.attend_back_tangent has it."""
    p = torch.softmax(s, -1)
    dp = dp - D
    ds_t = p * (dp_t - D_t) + p_t * dp
    return p, ds_t, dp * p


def parts() -> dict[str, tuple[Callable[..., Any], tuple[Any, ...], int]]:
    """Name -> function, arguments, calls per outer step."""
    wide = [torch.randn(TOKENS, FEED_FORWARD) for _ in range(4)]
    maps = [torch.randn(KEYS, KEYS) for _ in range(4)]
    rows = [torch.randn(KEYS, 1) for _ in range(2)]
    dy, dy_t, z = (torch.randn(TOKENS, WIDTH) for _ in range(3))
    weight, bias = torch.randn(WIDTH), torch.randn(WIDTH)
    _, kept = elementwise.norm(z, weight, bias, 1e-12)
    _, tangent = elementwise.norm_tangent(z.clone(), kept, weight, weight, bias)
    many = LAYERS * CHUNKS
    return {
        "gelu: value": (lambda u: elementwise.activate(u, "gelu"), (wide[0],), 2 * many),
        "gelu: backward": (lambda g, u: elementwise.times_slope(g, u, "gelu"), tuple(wide[:2]), 2 * many),
        "gelu: backward and tangent": (
            lambda g, g_t, u, u_t: elementwise.back_and_tangent(g, g_t.clone(), u, u_t, "gelu"),
            tuple(wide),
            many,
        ),
        "layer norm: tangent of the backward": (
            lambda *arguments: elementwise.norm_back_tangent(*arguments),
            (dy, dy_t, z, kept, tangent, weight, weight),
            2 * many,
        ),
        "softmax: tangent of the backward": (softmax_back_tangent, (*maps, *rows), HEADS),
    }


def microseconds(run: Callable[[], object], repeats: int = 40) -> float:
    """Median of ``repeats`` calls after five."""
    times = []
    for _ in range(repeats + 5):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return sorted(times[5:])[repeats // 2] * 1e6


def step_seconds(repeats: int = 5) -> float:
    """Seconds of a whole outer step: the median of ``repeats`` after one."""
    model = load("minilm", torch.device("cpu"))
    step = outer_step("fused", model, real_batch(model))
    learned, times = LearnedTensors.draw(model, STEP).to(torch.float32), []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        step(learned)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


@torch.no_grad()
def measured(whole: float) -> Iterator[dict[str, Any]]:
    """Every part, beside an outer step of ``whole`` seconds."""
    for name, (function, arguments, calls) in parts().items():
        eager = microseconds(lambda f=function, a=arguments: f(*a))  # type: ignore[misc]
        torch._dynamo.reset()
        compiled = torch.compile(function, dynamic=False)
        began = time.perf_counter()
        compiled(*arguments)
        seconds = time.perf_counter() - began
        fast = microseconds(lambda f=compiled, a=arguments: f(*a))  # type: ignore[misc]
        saved = (eager - fast) * calls / 1e6 / whole
        yield {
            "part": name,
            "eager_us": f"{eager:.0f}",
            "compiled_us": f"{fast:.0f}",
            "compile_seconds": f"{seconds:.2f}",
            "step_seconds": f"{whole:.2f}",
            "saved_percent_of_step": f"{100 * saved:.1f}",
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures every part for every thread count."""
    parser = argparse.ArgumentParser(prog="python -m analysis.benchmarks.compiled", description="eager and compiled")
    parser.add_argument("threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    table = Table(options.out / "compiled.csv", COLUMNS, KEY)
    for threads in options.threads:
        torch.set_num_threads(threads)
        for line in measured(step_seconds()):
            print(f"{threads}  " + "  ".join(line.values()), flush=True)
            place = {"threads": threads, "part": line["part"], "hardware": hardware("cpu")}
            table.put(place, [line | {"versions": versions()}])


if __name__ == "__main__":
    main()
