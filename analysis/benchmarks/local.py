"""Time of ``run --cluster local`` with its cells as forks of one process, and as processes of their own.

    python -m analysis.benchmarks.local

Run from the repository root; Linux without a GPU, where cells can be forks. Ten sets of random rows and ten evaluations
of one step of fine-tuning, with an encoder of a few kilobytes: next to no work, so that what remains is how a cell
begins and ends. Whole commands are timed, two cells at a time, from the start of Python to its end; CPU seconds are of
all processes. Lines land in ``results/local.csv``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from analysis.benchmarks.measure import RESULTS, Table, hardware, versions
from pipeline.launch import forks

MODULE = "analysis.benchmarks.local"
ROOT = Path(__file__).resolve().parents[2]
KEY = ("cells are", "cells", "at once", "hardware")
COLUMNS = (*KEY[:-1], "seconds", "cpu_seconds", "hardware", "versions")
COMMAND = """
from pipeline.__main__ import main
from pipeline.launch import forks
possible = forks.possible
forks.possible = lambda: {forked} and possible()
main()
"""
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "word"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


def make(folder: Path, cells: int) -> Path:
    """Writes an encoder, data and an experiment of ``cells`` sets and as many evaluations; the experiment's path."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS))
    BertTokenizerFast(str(vocabulary)).save_pretrained(folder / "model")
    config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=16, pad_token_id=0, **SIZES)
    BertForSequenceClassification(config).save_pretrained(folder / "model")
    rows = [{"text": f"{'good' if number % 2 else 'bad'} word", "label": number % 2} for number in range(100)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"name": "tiny", "source": {"kind": "files", "train": str(folder / "data.jsonl")}, "text": ["text"]}
    whole = {
        "base": {
            "prepare": {"task": task, "model": str(folder / "model"), "dev": 0.1, "test": 0.1, "max_length": 8},
            "distill": {"method": {"name": "random"}, "runtime": {"threads": 1}},
            "evaluate": {
                "protocol": {"name": "finetune", "steps": 1},
                "initialisations": 1,
                "runtime": {"threads": 1},
            },
        },
        "seeds": cells,
        "grids": [{}],
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(whole))
    return path


def timed(folder: Path, config: Path, *, forked: bool) -> tuple[float, float]:
    """Seconds by the clock, and CPU seconds of all processes, of the whole experiment from nothing.

    Raises:
        RuntimeError: it failed.

    """
    place = folder / ("forks" if forked else "processes")
    place.mkdir()
    (place / "configs").mkdir()
    (place / "configs" / "cluster.yaml").write_text("local: {at_once: 2}\n")
    words = ["run", str(config), "--cluster", "local", "--no-check", "--root", "root", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-c", COMMAND.format(forked=forked), *words]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr}")
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures both ways anew."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description="cells as forks and as processes")
    parser.add_argument("--cells", type=int, default=10, help="sets; as many evaluations")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if not forks.possible():
        raise SystemExit("cells cannot be forks here: that takes Linux, and no GPU")
    table = Table(options.out / "local.csv", COLUMNS, KEY)
    with tempfile.TemporaryDirectory() as scratch:
        config = make(Path(scratch), options.cells)
        for what, forked in (("forks", True), ("processes", False)):
            seconds, cpu = timed(Path(scratch), config, forked=forked)
            key = {"cells are": what, "cells": 2 * options.cells, "at once": 2, "hardware": hardware("cpu")}
            table.put(key, [{"seconds": seconds, "cpu_seconds": cpu, "versions": versions()}])
            print(f"{2 * options.cells} cells as {what}: {seconds:.0f} s, {cpu:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
