"""What lower precision does to the hypergradient: relative error and cosine against float32, MiniLM, real weights.

    python -m analysis.benchmarks.precision

Writes analysis/benchmarks/results/precision.csv. T = 1 and 3, M = 4, S = 64, unrestricted labels and [CLS] attention
labels, real batch 32 x 64, median over three draws of all learned tensors together. TF32 is emulated where there is no
CUDA: both operands of every product are rounded to its 10 bits of mantissa, sums are float32.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analysis.benchmarks.problem import FRESH, LearnedTensors, load, our_step, real_batch
from pipeline.bilevel.fused import attention, ends, layer, products
from pipeline.students.encoder import Student

M, S, DRAWS = 4, 64, 3
RESULTS = Path(__file__).parent / "results" / "precision.csv"


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


def main() -> None:
    """Measures every option."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
    found = []
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
            row = [T, name, f"{statistics.median(errors):.1e}", f"{1 - statistics.median(cosines):.1e}", DRAWS]
            print("  ".join(map(str, row)), flush=True)
            found.append([*row, device.type])
    RESULTS.parent.mkdir(exist_ok=True)
    with open(RESULTS, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["T", "option", "relative_error", "one_minus_cosine", "draws", "device"])
        writer.writerows(found)


if __name__ == "__main__":
    main()
