"""A tiny causal language model and what stage 1 makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from pipeline.config import Distill
from pipeline.data.prepared import Prepared
from pipeline.methods.dilm.generator import Generator
from pipeline.randomness import seeded
from pipeline.stage1_prepare import run as prepare_run
from pipeline.store import Store
from tests.conftest import FILLERS, KEYWORDS, corpus

WORDS = ["<unk>", "<end>", *FILLERS, *KEYWORDS[0], *KEYWORDS[1]]


def language_tokenizer() -> PreTrainedTokenizerFast:
    """Word by word; ``<end>`` begins and ends a text, as GPT-2 has it."""
    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<end>", eos_token="<end>", model_max_length=40
    )


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random GPT-2 of two layers and its tokenizer."""
    folder = tmp_path_factory.mktemp("language model")
    config = GPT2Config(
        vocab_size=len(WORDS), n_embd=32, n_layer=2, n_head=4, n_positions=40,
        bos_token_id=1, eos_token_id=1, resid_pdrop=0.1, initializer_range=0.3,
    )  # fmt: skip
    with seeded(11, "language model"):
        GPT2LMHeadModel(config).save_pretrained(folder)
    language_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pair_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 pairs as JSON lines; whether both sentences have the same keyword class is their label."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    one, other = corpus(120, seed=5), corpus(120, seed=6)
    rows = [{"one": a["text"], "other": b["text"], "label": a["label"]} for a, b in zip(one, other, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


Chain = Callable[..., dict[str, Any]]


@pytest.fixture
def chain(
    encoder_folder: Callable[..., Path], corpus_file: Path, pair_file: Path, language_model: Path
) -> Callable[..., Distill]:
    """The config of a ``generated`` cell with its parents, as a YAML file has it: small everywhere."""

    def make(
        lm: dict[str, Any] | None = None,
        dilm: dict[str, Any] | None = None,
        generated: dict[str, Any] | None = None,
        *,
        pairs: bool = False,
        matched: bool = True,
        family: str = "bert",
    ) -> Distill:
        source = {"kind": "files", "train": str(pair_file if pairs else corpus_file)}
        task = {"name": "keywords", "source": source, "text": ["one", "other"] if pairs else ["text"]}
        encoder = {"task": task, "model": str(encoder_folder(family)), "dev": 24, "test": 24}
        writer = encoder | {"model": {"name": str(language_model), "head": "language"}}
        common = {"runtime": {"threads": 1, "save_seconds": 0}, "seed": 3}
        cell: dict[str, Any] = common | {
            "source": writer,
            "method": {"name": "lm", "steps": 6, "lr": 1e-2, "batch_size": 16, "precision": "fp32"} | (lm or {}),
        }
        sampling = {"batch_size": 16, "precision": "fp32", "max_tokens": 8}
        if matched:
            small = {
                "name": "dilm", "steps": 5, "lr": 1e-3, "precision": "fp32", "shots": 4, "updates": 2,
                "student_steps": 2, "student": {"steps": 4, "batch_size": 8, "lr": 1e-3}, "sampling": sampling,
                "teachers": {"sets": 2, "shots": 5}, "pool": {"every": 1, "size": 16, "clusters": 2},
            }  # fmt: skip
            cell = common | {"source": encoder, "method": small | (dilm or {}), "parent": cell}
        last = {"name": "generated", "shots": 2, "over_sample": 4, "sampling": sampling} | (generated or {})
        return Distill.model_validate(common | {"source": encoder, "method": last, "parent": cell})

    return make


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


def prepared(config: Any, store: Store) -> Prepared:
    """Runs stage 1 for a config, once."""
    cell = store.cell(config)
    if not (cell.folder / "manifest.json").exists():
        cell.folder.mkdir(parents=True)
        prepare_run(config, cell.folder)
    return Prepared(cell.folder)


def fresh(folder: Path, classes: int = 2) -> Generator:
    """A generator with new tokens, not trained."""
    return Generator.fresh(folder, classes, 3, torch.device("cpu"))
