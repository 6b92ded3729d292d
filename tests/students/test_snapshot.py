"""Stage 1's look at an encoder: found by looking, for every family."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    ViTConfig,
)

from pipeline.config import Model
from pipeline.errors import InputError
from pipeline.students.snapshot import describe, load_encoder, save, usable_positions
from tests.conftest import FAMILIES, VOCABULARY, build_tokenizer

EncoderFolder = Callable[[str], Path]
LINEAR = ["weight", "bias"]
FRESH = {
    "bert": [f"classifier.{p}" for p in LINEAR],
    "albert": [f"classifier.{p}" for p in LINEAR],
    "roberta": [f"classifier.{m}.{p}" for m in ("dense", "out_proj") for p in LINEAR],
    "electra": [f"classifier.{m}.{p}" for m in ("dense", "out_proj") for p in LINEAR],
    "mpnet": [f"classifier.{m}.{p}" for m in ("dense", "out_proj") for p in LINEAR],
    "distilbert": [f"{m}.{p}" for m in ("pre_classifier", "classifier") for p in LINEAR],
    "gpt2": ["score.weight"],
    "xlnet": [f"{m}.{p}" for m in ("sequence_summary.summary", "logits_proj") for p in LINEAR],
}
POSITIONS = dict.fromkeys(FAMILIES, 40) | {"roberta": 39, "mpnet": 38, "xlnet": None}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_found(encoder_folder: EncoderFolder, family: str) -> None:
    model, tokenizer, fresh = load_encoder(Model(name=str(encoder_folder(family))), 3, seed=1)
    facts = describe(model, fresh)
    assert sorted(fresh) == sorted(FRESH[family])
    assert facts["positions"] == POSITIONS[family]
    assert facts["reads_first_token"] is (family not in ("gpt2", "xlnet"))
    assert (facts["attention_layers"], facts["attention_heads"]) == (2, 4)
    assert facts["embedding_width"] == (16 if family in ("electra", "albert") else 32)
    assert facts["architecture"] == type(FAMILIES[family]()).__name__
    assert model.config.num_labels == 3
    assert model.config._attn_implementation == "eager"
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize("family", [family for family in FAMILIES if POSITIONS[family] is not None])
def test_a_position_beyond_the_usable_ones_fails_and_the_last_one_works(
    encoder_folder: EncoderFolder, family: str
) -> None:
    positions = POSITIONS[family]
    assert positions is not None
    model, *_ = load_encoder(Model(name=str(encoder_folder(family))), 2, seed=1)

    def forward(length: int) -> None:
        model(inputs_embeds=torch.randn(1, length, model.get_input_embeddings().embedding_dim))
        model(input_ids=torch.full((1, length), 7), attention_mask=torch.ones(1, length, dtype=torch.long))

    forward(positions)
    with pytest.raises((IndexError, RuntimeError)):
        forward(positions + 1)


def test_roberta_never_uses_the_positions_up_to_its_padding() -> None:
    config = RobertaConfig(vocab_size=41, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, pad_token_id=1)
    config.max_position_embeddings = 40
    assert usable_positions(RobertaForSequenceClassification(config)) == 38


@pytest.mark.parametrize("family", FAMILIES)
def test_a_snapshot_is_the_model(encoder_folder: EncoderFolder, family: str, tmp_path: Path) -> None:
    model, tokenizer, fresh = load_encoder(Model(name=str(encoder_folder(family))), 2, seed=1)
    save(model, tokenizer, tmp_path / "model")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", attn_implementation="eager")
    for (name, one), (other_name, other) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert name == other_name
        assert torch.equal(one, other), name
    assert describe(again, fresh) == describe(model, fresh)


def test_the_body_is_the_checkpoint_s(encoder_folder: EncoderFolder) -> None:
    from safetensors.torch import load_file

    stored = load_file(encoder_folder("bert") / "model.safetensors")
    model, *_ = load_encoder(Model(name=str(encoder_folder("bert"))), 2, seed=1)
    found = dict(model.bert.named_parameters())
    shared = set(stored) & set(found)
    assert len(shared) > 30
    assert all(torch.equal(stored[name], found[name]) for name in shared)


def test_missing_weights_are_a_function_of_the_seed(encoder_folder: EncoderFolder) -> None:
    name = Model(name=str(encoder_folder("bert")))
    torch.manual_seed(1)
    first = load_encoder(name, 2, seed=1)[0].classifier.weight
    torch.manual_seed(2)
    assert torch.equal(load_encoder(name, 2, seed=1)[0].classifier.weight, first)
    assert not torch.equal(load_encoder(name, 2, seed=2)[0].classifier.weight, first)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_a_head_of_another_size_is_drawn_anew(encoder_folder: EncoderFolder, tmp_path: Path, family: str) -> None:
    """Also one of the same size: nothing of a fine-tuned head is left in a student."""
    whole = FAMILIES[family]()
    assert whole.config.num_labels == 2
    folder = tmp_path / family
    whole.save_pretrained(folder)
    build_tokenizer(folder).save_pretrained(folder)
    for classes in (5, 2):
        model, _, fresh = load_encoder(Model(name=str(folder)), classes, seed=1)
        assert sorted(fresh) == sorted(FRESH[family])
        assert dict(model.named_parameters())[FRESH[family][-1]].shape == (classes,)
        body = getattr(model, model.base_model_prefix).state_dict()
        kept = getattr(whole, whole.base_model_prefix).state_dict()
        assert all(torch.equal(body[name], kept[name]) for name in kept)


def test_a_body_weight_that_the_checkpoint_lacks_is_fresh(encoder_folder: EncoderFolder, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(encoder_folder("bert"), tmp_path / "bert")
    stored = load_file(folder / "model.safetensors")
    for part in LINEAR:
        del stored[f"pooler.dense.{part}"]
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    _, _, fresh = load_encoder(Model(name=str(folder)), 2, seed=1)
    assert sorted(fresh) == sorted([*FRESH["bert"], *(f"bert.pooler.dense.{part}" for part in LINEAR)])


def test_not_pretrained(encoder_folder: EncoderFolder) -> None:
    name = str(encoder_folder("bert"))
    pretrained, *_ = load_encoder(Model(name=name), 3, seed=1)
    model, tokenizer, fresh = load_encoder(Model(name=name, pretrained=False), 3, seed=1)
    assert fresh == [parameter for parameter, _ in model.named_parameters()]
    assert model.config.num_labels == 3
    assert len(tokenizer) == len(VOCABULARY)
    old, new = (m.bert.embeddings.word_embeddings.weight for m in (pretrained, model))
    assert old.shape == new.shape
    assert not torch.equal(old, new)
    again, *_ = load_encoder(Model(name=name, pretrained=False), 3, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    other, *_ = load_encoder(Model(name=name, pretrained=False), 3, seed=2)
    assert not torch.equal(other.bert.embeddings.word_embeddings.weight, new)


def test_a_tokenizer_without_padding_pads_with_its_end(encoder_folder: EncoderFolder, tmp_path: Path) -> None:
    folder = shutil.copytree(encoder_folder("gpt2"), tmp_path / "gpt2")
    tokenizer = build_tokenizer(tmp_path / "tokenizer")
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    model, loaded, _ = load_encoder(Model(name=str(folder)), 2, seed=1)
    assert loaded.pad_token == "[SEP]"
    assert model.config.pad_token_id == loaded.pad_token_id == 3


# --- models that cannot be used ------------------------------------------------------------------------------------


def _config_only(folder: Path, config: Any) -> None:
    config.save_pretrained(folder)
    build_tokenizer(folder).save_pretrained(folder)


def _no_tokenizer(folder: Path) -> None:
    FAMILIES["bert"]().save_pretrained(folder)


def _garbage(folder: Path) -> None:
    _config_only(folder, BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=40))
    (folder / "model.safetensors").write_bytes(b"no weights at all")


T5 = {"vocab_size": 41, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 32}
UNUSABLE: dict[str, tuple[Callable[[Path], object], bool, list[str]]] = {
    "vision": (
        lambda folder: _config_only(folder, ViTConfig(**VIT)),
        False,
        ["no usable sequence classifier", "ViTConfig"],
    ),
    "encoder-decoder": (lambda folder: _config_only(folder, T5Config(**T5)), False, ["an encoder-decoder"]),
    "no model": (lambda folder: (folder / "notes.txt").write_text("x"), True, ["no usable sequence classifier"]),
    "empty folder": (lambda folder: None, True, ["no usable sequence classifier"]),
    "no weights": (
        lambda folder: _config_only(folder, BertConfig()),
        True,
        ["no usable sequence classifier", "model.safetensors"],
    ),
    "damaged weights": (_garbage, True, ["no usable sequence classifier"]),
    "unknown type": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "nothing"}'),
        True,
        ["no usable sequence classifier", "nothing"],
    ),
    "damaged config": (
        lambda folder: (folder / "config.json").write_text("{oops"),
        True,
        ["no usable sequence classifier"],
    ),
    "no tokenizer": (_no_tokenizer, True, ["no usable tokenizer", "save the tokenizer there too"]),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_models(tmp_path: Path, name: str) -> None:
    make, pretrained, words = UNUSABLE[name]
    folder = tmp_path / "given"
    folder.mkdir()
    make(folder)
    with pytest.raises(InputError) as refusal:
        load_encoder(Model(name=str(folder), pretrained=pretrained), 2, seed=1)
    said = str(refusal.value)
    for word in [f"model {folder}: ", *words]:
        assert word in said
    assert "not reachable" not in said
    assert "\n" not in said
    if name != "no tokenizer":
        assert "give an encoder such as bert-base-uncased" in said
