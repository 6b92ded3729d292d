"""What lower precision does to the hypergradient: relative error and cosine against float32, MiniLM, real weights.

    python -m analysis.benchmarks.precision

Run from the repository root; lines of this machine in ``results/precision.csv`` are replaced. T = 1 and 3, M = 4,
S = 64, unrestricted labels and [CLS] attention labels, real batch 32 x 64, median over three draws of all learned
tensors together. TF32 is emulated where there is no CUDA: both operands of every product are rounded to its 10 bits of
mantissa, sums are float32.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analysis.benchmarks.measure import RESULTS, Table, hardware, versions
from analysis.benchmarks.problem import FRESH, LearnedTensors, load, our_step, real_batch
from pipeline.bilevel.fused import attention, ends, layer, products
from pipeline.students.encoder import Student

M, S, DRAWS = 4, 64, 3
KEY = ("T", "option", "hardware")
COLUMNS = ("T", "option", "relative_error", "one_minus_cosine", "draws", "device", "hardware", "versions")


def to_tf32(x: Tensor) -> Tensor:
    """float32 rounded to 10 bits of mantissa."""
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


@contextmanager
def emulated_tf32() -> Iterator[None]:
    """All products of the fused passes with rounded operands."""
    places: list[tuple[Any, str]] = [(products, "linear"), (layer, "linear"), (ends, "linear")]
    places += [(module, name) for module in (attention, products) for name in ("nt", "nn", "tn")]
    before = [(module, name, getattr(module, name)) for module, name in places]

    def rounding(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda a, b, *rest: product(to_tf32(a), to_tf32(b), *rest)

    for module, name, product in before:
        setattr(module, name, rounding(product))
    try:
        yield
    finally:
        for module, name, product in before:
            setattr(module, name, product)


def measured(device: torch.device) -> Iterator[dict[str, Any]]:
    """Every option at every T."""
    model = load("minilm", device)
    real = real_batch(model)
    theta_0 = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def gradient(learned: LearnedTensors, student: Student, estimator: str = "fused") -> Tensor:
        mine = learned.to(torch.float32)
        our_step(estimator, student, theta_0, mine, real)
        return torch.cat([part.flatten() for part in mine.gradients().values()]).double()

    emulate = emulated_tf32 if device.type == "cpu" else nullcontext
    tf32 = {"precision": "tf32"}
    options: dict[str, tuple[Callable[[], Any], str, dict[str, str]]] = {
        "bf16 for the real batch": (nullcontext, "fused", {"outer_precision": "bf16"}),
        f"TF32 everywhere{' (emulated)' if device.type == 'cpu' else ''}": (emulate, "fused", tf32),
        "bf16 for the inner loop (autocast)": (nullcontext, "unroll", {"precision": "bf16"}),
        "float32 by unroll instead of fused": (nullcontext, "unroll", {}),
    }
    for T in (1, 3):
        draws = [LearnedTensors.draw(model, (M, S, T), rate=0.1, seed=seed) for seed in range(DRAWS)]
        exact = [gradient(learned, Student(model, FRESH)) for learned in draws]
        for name, (context, estimator, precision) in options.items():
            errors, cosines = [], []
            student = Student(model, FRESH, **precision)
            student.fused()  # compares itself with the model, which is done in full precision
            for learned, true in zip(draws, exact, strict=True):
                with context():
                    ours = gradient(learned, student, estimator)
                errors.append(((ours - true).norm() / true.norm()).item())
                cosines.append((torch.dot(ours, true) / (ours.norm() * true.norm())).item())
            yield {
                "T": T,
                "option": name,
                "relative_error": f"{statistics.median(errors):.1e}",
                "one_minus_cosine": f"{1 - statistics.median(cosines):.1e}",
                "draws": DRAWS,
                "device": device.type,
            }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures every option."""
    parser = argparse.ArgumentParser(prog="python -m analysis.benchmarks.precision", description="lower precision")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    table = Table(options.out / "precision.csv", COLUMNS, KEY)
    place = {"hardware": hardware(device.type), "versions": versions()}
    for line in measured(device):
        print("  ".join(map(str, line.values())), flush=True)
        table.put(line | place, [{}])


if __name__ == "__main__":
    main()
