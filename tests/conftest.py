"""Small real parts for every test: a keyword corpus of known Bayes accuracy, tiny encoders of several families."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
import yaml
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)
from typer.testing import CliRunner

from pipeline import stopping
from pipeline.__main__ import app
from pipeline.config import Experiment, load
from pipeline.launch import StageName, estimate, local, run_stage, stage_cells
from pipeline.randomness import seeded
from pipeline.store import Store
from tests.forked import SUBPROCESS

FILLERS = [f"word{number}" for number in range(30)]
KEYWORDS = {0: ["bad", "dull", "weak"], 1: ["good", "bright", "strong"]}
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLERS, *KEYWORDS[0], *KEYWORDS[1]]
_BASE = {"vocab_size": len(VOCABULARY), "attn_implementation": "eager", "pad_token_id": 0}
_BODY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    # larger than the usual 0.02: a random encoder of this size must tell its inputs apart
    "initializer_range": 0.15,
}
FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**_BASE, **_BODY)),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**_BASE, **_BODY)),
    "electra": lambda: ElectraForSequenceClassification(ElectraConfig(**_BASE, **_BODY, embedding_size=16)),
    "albert": lambda: AlbertForSequenceClassification(AlbertConfig(**_BASE, **_BODY, embedding_size=16)),
    "mpnet": lambda: MPNetForSequenceClassification(MPNetConfig(**_BASE, **_BODY)),
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(**_BASE, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=40)
    ),
    "gpt2": lambda: GPT2ForSequenceClassification(GPT2Config(**_BASE, n_embd=32, n_layer=2, n_head=4, n_positions=40)),
    "xlnet": lambda: XLNetForSequenceClassification(XLNetConfig(**_BASE, d_model=32, n_layer=2, n_head=4, d_inner=64)),
}


def encoder(family: str) -> PreTrainedModel:
    """A tiny classifier of the family; random weights, the same every time."""
    with seeded(7, family):
        return FAMILIES[family]().eval()


def bert(**changes: Any) -> BertForSequenceClassification:
    """A tiny BERT with some other settings."""
    with seeded(7, "bert"):
        return BertForSequenceClassification(BertConfig(**_BASE | _BODY | changes)).eval()


def build_tokenizer(folder: Path) -> BertTokenizerFast:
    """A word-level tokenizer over the test vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=40)


def _pretrain(model: PreTrainedModel) -> None:
    """Which keyword is in the sentence, from the first token's last hidden state."""
    words = [word for group in KEYWORDS.values() for word in group]
    random = np.random.default_rng(1)
    with seeded(7, "pretraining"):
        head = torch.nn.Linear(32, len(words))
        optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=3e-3)
        body = getattr(model, model.base_model_prefix).eval()
        for _ in range(250):
            target = random.integers(0, len(words), 32)
            ids = random.integers(5, 5 + len(FILLERS), (32, 8))
            ids[np.arange(32), random.integers(1, 8, 32)] = 5 + len(FILLERS) + target
            ids[:, 0] = VOCABULARY.index("[CLS]")
            hidden = body(input_ids=torch.tensor(ids)).last_hidden_state[:, 0]
            loss = torch.nn.functional.cross_entropy(head(hidden), torch.tensor(target))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert loss.item() < 0.5, "the tiny encoder did not learn its keywords"


# In the background of a script Ctrl-C is ignored, by all processes that are started there; tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """A stop that was heard leaves late echoes ignored, which the processes of other tests would inherit."""
    signals = [getattr(signal, name) for name in stopping.SIGNALS]
    before = {number: signal.getsignal(number) for number in signals}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says what was left out; here, because with several processes the one that reports collects nothing itself."""
    if "not slurm" in config.option.markexpr:
        terminalreporter.section("left out", yellow=True)
        terminalreporter.line("the tests against a real SLURM (tests/slurm); they run with: make test-slurm")


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Family name -> folder with a tiny encoder's config, weights and tokenizer, as a user would have it.

    Weights are random, or, where asked for, trained for two seconds to tell the six keywords apart.
    """
    root = tmp_path_factory.mktemp("encoders")

    def folder(family: str, pretrained: bool = False) -> Path:
        path = root / (f"{family}-pretrained" if pretrained else family)
        if not (path / "config.json").exists():
            with seeded(7, family):
                model = FAMILIES[family]()
            if pretrained:
                _pretrain(model)
            # The body alone, as pretrained checkpoints come: the head is missing from the file.
            getattr(model, model.base_model_prefix).save_pretrained(path)
            build_tokenizer(path).save_pretrained(path)
        return path

    return folder


def corpus(rows: int, seed: int, noise: float = 0.0) -> list[dict[str, Any]]:
    """Sentences of filler words and one keyword of their class; Bayes accuracy 1 - noise."""
    random = np.random.default_rng(seed)
    made = []
    for row in range(rows):
        label = row % 2
        words = list(random.choice(FILLERS, random.integers(3, 9)))
        words.insert(random.integers(0, len(words) + 1), str(random.choice(KEYWORDS[label])))
        made.append({"text": " ".join(words), "label": int(1 - label if random.random() < noise else label)})
    return made


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 rows as JSON lines."""
    path = tmp_path_factory.mktemp("corpus") / "keywords.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in corpus(240, seed=3)))
    return path


@pytest.fixture
def experiment(tmp_path: Path, encoder_folder: Callable[[str], Path], corpus_file: Path) -> Callable[..., Path]:
    """Writes a small experiment's YAML: base sections merged with what is given, optional grids and report."""

    def write(
        prepare: dict[str, Any] | None = None,
        method: dict[str, Any] | None = None,
        evaluate: dict[str, Any] | None = None,
        distill: dict[str, Any] | None = None,
        grids: list[dict[str, Any]] | None = None,
        report: dict[str, Any] | None = None,
        name: str = "tiny",
    ) -> Path:
        task = {"name": "keywords", "source": {"kind": "files", "train": str(corpus_file)}, "text": ["text"]}
        small = {
            "name": "ddal",
            "sequence_length": 8,
            "learning_rate": 0.1,
            "outer": {"steps": 4, "batch_size": 8},
            "validation": {"every": 2, "initialisations": 2},
        }
        one_thread = {"threads": 1}  # tiny tensors: threads only cost
        whole = {
            "base": {
                "prepare": {"task": task, "model": str(encoder_folder("bert")), "dev": 40, "test": 40}
                | (prepare or {}),
                "distill": {"method": small | (method or {}), "runtime": one_thread} | (distill or {}),
                "evaluate": {"protocol": {"name": "ddal"}, "initialisations": 2, "runtime": one_thread}
                | (evaluate or {}),
            },
            "grids": grids or [{}],
            "report": report or {"paper": False},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(whole))
        return path

    return write


def carried_out(path: Path, root: Path, last: StageName = "evaluate") -> tuple[Experiment, Store]:
    """All cells of an experiment through its stages up to ``last``, in this process; the experiment and its store."""
    experiment, store = load(path), Store(root)
    stages: list[StageName] = ["prepare", "distill", "evaluate"]
    for stage in stages[: 1 + stages.index(last)]:
        outcome = run_stage(stage_cells(experiment, store, stage), stage, store)
        assert not outcome.failed, outcome.failed
    return experiment, store


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def typed(*words: object) -> str:
    """What ``python -m pipeline WORDS`` prints; in this process."""
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``estimate`` and ``--cluster local`` start in this process as processes of their own are forks of ours."""
    for user in (estimate, local):
        monkeypatch.setattr(user, "subprocess", SUBPROCESS)
    monkeypatch.setattr(local.forks, "possible", lambda: False)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """As in the experiments above."""
    torch.set_num_threads(1)
