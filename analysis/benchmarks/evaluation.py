"""Time of one initialisation of an evaluation: train on the set, score SST-2's validation split; against the baselines.

    python -m analysis.benchmarks.evaluation --threads 1,2

Run from the repository root. MiniLM with its real weights, M = 2 samples of S = 64 tokens, T = 1 step, 872 sentences
(``--data``; where that file is absent, random tokens with the lengths of those sentences). Tokens are collated before
the clock starts, in every contender. Fresh processes take turns; the first initialisation of each is not timed. Logits
are compared over all. Lines land in ``results/evaluation.csv``; what is there is measured again only with ``--again``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.benchmarks.measure import (
    RESULTS,
    Outcome,
    Peak,
    Table,
    hardware,
    one_machine,
    ratio,
    report,
    time_steps,
    versions,
)
from analysis.benchmarks.targets import BASELINES

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

MODULE = "analysis.benchmarks.evaluation"
M, S, T = 2, 64, 1
SIZE = (M, S, T)
OURS = {"fp32": "fp32", "bf16": "bf16"}  # contender -> precision of the scoring
TARGET = 6.0  # times faster than the published evaluation
# tokens of SST-2's validation sentences: the 0, 10, … 100 % quantiles
LENGTHS = (4, 12, 16, 19, 21, 24.5, 27, 30, 34, 40, 55)
ROWS = 872
KEY = ("model", "threads", "M", "S", "T", "hardware")
COLUMNS = (
    *("model", "threads", "M", "S", "T", "estimator", "baseline", "rows", "seconds", "cpu_seconds", "peak_mb"),
    *("time_ratio", "memory_ratio", "accuracy", "largest_logit_difference", "accuracy_difference", "changed_decisions"),
    *("status", "reason", "steps", "disturbed", "warmup_seconds", "base_mb", "absolute_mb", "hardware", "versions"),
)
Rows = list[dict[str, list[int]]]


# In the child ------------------------------------------------------------------------------------------------------


def child(request: dict[str, Any]) -> None:
    """Measures one contender; leaves the logits of every initialisation [n, rows, C] in a file."""
    import torch

    from analysis.benchmarks.floor import synchronise
    from analysis.benchmarks.problem import FRESH, LearnedTensors, load
    from pipeline.students.encoder import Student

    device = torch.device(request["device"])
    torch.set_num_threads(request["threads"])
    model = load("minilm", device)
    rows, labels = sentences(Path(request["data"]), model.config.vocab_size)
    learned = LearnedTensors.draw(model, SIZE, rate=0.1).to(torch.float32)
    precision = OURS.get(request["contender"], "fp32")
    student = Student(model, FRESH, outer_precision=precision)  # draws every contender's classifiers
    peak = Peak(device)
    report("ready")
    initialisation = contender(request["contender"], model, student, learned, (rows, labels))
    logits: list[np.ndarray[Any, Any]] = []

    def once() -> None:
        found = initialisation(student.initial(0, len(logits)))
        synchronise(device)
        logits.append(found.detach().float().cpu().numpy())

    began = time.perf_counter()
    once()
    report("warm", seconds=time.perf_counter() - began)
    time_steps(once, request["steps"])
    decided = np.stack(logits).argmax(axis=-1)
    np.save(request["logits"], np.stack(logits))
    report("done", accuracy=float((decided == np.array(labels)).mean()), rows=len(rows), **peak.found())


def contender(
    name: str, model: PreTrainedModel, student: Any, learned: Any, data: tuple[Rows, list[int]]
) -> Callable[[dict[str, Tensor]], Tensor]:
    """θ_0 -> [rows, C] logits after training on the set."""
    from analysis.benchmarks.published import Baseline
    from pipeline.bilevel import descend
    from pipeline.students.device import keep_freed_memory
    from pipeline.students.scoring import score

    rows, labels = data
    device, padding = model.device, model.config.pad_token_id
    if name in BASELINES:
        baseline = Baseline(model, lean=name == "published-lean")
        batches = [(chunk, _moved(batch, device)) for chunk, batch in baseline.batches(rows, padding)]
        return lambda theta_0: baseline.score(baseline.train(theta_0, learned.named()), batches)
    keep_freed_memory()  # as stage 3 does
    ours = our_batches(rows, labels, device)
    return lambda theta_0: score(student, descend(student, theta_0, learned.batches()), ours)


def our_batches(rows: Rows, labels: list[int], device: torch.device) -> Any:
    """The split as ``pipeline`` batches it."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    from analysis.benchmarks.problem import minilm_folder
    from pipeline.data.tokenised import Split

    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in ("input_ids", "token_type_ids")}
    columns |= {"label": labels, "length": [len(row["input_ids"]) for row in rows]}
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder(), local_files_only=True)
    return Split(Dataset.from_dict(columns), tokenizer).batches(device)


def sentences(path: Path, vocabulary: int) -> tuple[Rows, list[int]]:
    """Token ids of every validation sentence, and labels; random ones of the same lengths where there is no file."""
    if path.exists():
        import pandas as pd
        from transformers import AutoTokenizer

        from analysis.benchmarks.problem import minilm_folder

        table = pd.read_parquet(path)
        text = next(name for name in ("sentence", "text") if name in table)
        encoded = AutoTokenizer.from_pretrained(minilm_folder(), local_files_only=True)(table[text].tolist())
        rows = [{name: encoded[name][row] for name in encoded} for row in range(len(table))]
        return rows, table["label"].tolist()
    from analysis.benchmarks.problem import first_word

    random = np.random.default_rng(0)
    lengths = np.interp(random.random(ROWS), np.linspace(0, 1, len(LENGTHS)), LENGTHS).round().astype(int)
    rows = [
        {
            "input_ids": random.integers(first_word(vocabulary), vocabulary, length).tolist(),
            "attention_mask": [1] * int(length),
            "token_type_ids": [0] * int(length),
        }
        for length in lengths
    ]
    return rows, random.integers(0, 2, ROWS).tolist()


def _moved(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}


# In the parent -----------------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace, threads: int, table: Table) -> None:
    """All contenders at one thread count, taking turns; writes their lines and prints them."""
    key = _key(options, threads)
    contenders = [*BASELINES, *OURS]
    outcomes = {name: Outcome(on_cpu=options.device == "cpu") for name in contenders}
    with tempfile.TemporaryDirectory() as scratch, one_machine(threads) as environment:
        files = {name: Path(scratch) / f"{name}.npy" for name in contenders}
        for _ in range(options.rounds):
            for name, outcome in outcomes.items():
                request = {"contender": name, "threads": threads, "device": options.device, "steps": options.steps}
                request |= {"data": str(options.data), "logits": str(files[name])}
                outcome.run(MODULE, request, environment)
                print(f"  {name}: {outcome}", flush=True)
        logits = {name: np.load(file) for name, file in files.items() if file.exists()}
    if any(outcome.status == "disturbed" for outcome in outcomes.values()):
        print("the machine ran short of memory; not written down, run again")
        return
    table.put(key, _lines(outcomes, logits))
    for line in table.at(key):
        if line["baseline"] == BASELINES[0]:
            print(_sentence(line))


def _lines(outcomes: Mapping[str, Outcome], logits: Mapping[str, np.ndarray[Any, Any]]) -> Sequence[dict[str, Any]]:
    """One line per contender and baseline; logits are compared over the initialisations that both have."""
    lines = []
    for name, outcome in outcomes.items():
        for baseline in BASELINES:
            other = outcomes[baseline]
            line: dict[str, Any] = {
                **outcome.columns(),
                "estimator": name,
                "baseline": baseline,
                "rows": outcome.facts.get("rows"),
                "accuracy": outcome.facts.get("accuracy"),
                "time_ratio": ratio(other.median(), outcome.median()),
                "memory_ratio": ratio(other.peak(), outcome.peak()),
                "versions": versions(),
            }
            if name in logits and baseline in logits:
                mine, theirs = logits[name], logits[baseline]
                line["largest_logit_difference"] = float(np.abs(mine - theirs).max())
                line["accuracy_difference"] = outcome.facts["accuracy"] - other.facts["accuracy"]
                line["changed_decisions"] = float((mine.argmax(-1) != theirs.argmax(-1)).mean())
            lines.append(line)
    return lines


def _key(options: argparse.Namespace, threads: int) -> dict[str, Any]:
    return {"model": "minilm", "threads": threads, "M": M, "S": S, "T": T, "hardware": options.hardware}


def _sentence(line: Mapping[str, str]) -> str:
    if line["status"] != "measured":
        return f"threads {line['threads']}  {line['estimator']:<15} {line['status']}: {line['reason']}"
    verdict = ""
    if line["estimator"] in OURS and line["time_ratio"]:
        verdict = f"  {'met' if float(line['time_ratio']) >= TARGET else 'NOT MET'} (at least {TARGET:g} x)"
    same = (
        f"logits within {line['largest_logit_difference'] or '-'}, accuracy {line['accuracy_difference'] or '-'} higher"
    )
    taken = f"{line['seconds']:>6} s {line['peak_mb']:>6} MB  {line['time_ratio']:>6} x speed"
    return f"threads {line['threads']}  {line['estimator']:<15} {taken}  {same}{verdict}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is missing."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description="time of one evaluation")
    parser.add_argument("--short", action="store_true", help="one round of one initialisation")
    parser.add_argument("--threads", default="1", help="1,2: at each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes per contender")
    parser.add_argument("--steps", type=int, default=3, help="timed initialisations per process")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/sst2/validation.parquet"))
    parser.add_argument("--again", action="store_true", help="measure what is there too")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        child(json.loads(options.child))
        return
    if options.short:
        options.rounds = options.steps = 1
    options.hardware = hardware(options.device)
    table = Table(options.out / "evaluation.csv", COLUMNS, KEY)
    for threads in map(int, options.threads.split(",")):
        found = {line["estimator"] for line in table.at(_key(options, threads)) if line["status"] != "failed"}
        if options.again or not found.issuperset([*BASELINES, *OURS]):
            measure(options, threads, table)


if __name__ == "__main__":
    main()
