"""Options of generators: adapters, activations computed again, bfloat16; and what configs refuse."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

from pipeline.config import LM, DiLM, Distill, Evaluate, language_source
from pipeline.errors import InputError
from pipeline.methods.dilm.generator import Generator
from pipeline.methods.dilm.optimisation import Optimisation
from pipeline.methods.dilm.pretrain import language_modelling
from pipeline.methods.dilm.sequences import Sequences
from pipeline.randomness import seeded
from pipeline.stage2_distill import run as distill
from pipeline.store import Store
from tests.methods.dilm.conftest import WORDS, fresh, language_tokenizer, prepared

Chain = Callable[..., Distill]


def lm_of(chain: Chain, **options: Any) -> Distill:
    config = chain(options, matched=False).parent
    assert config is not None
    return config


def trained(config: Distill, store: Store) -> Path:
    prepared(config.source, store)
    folder = store.cell(config).folder
    folder.mkdir(parents=True)
    distill(config, folder)
    return folder


def test_adapters_and_new_tokens_are_all_that_is_trained(chain: Chain, store: Store, language_model: Path) -> None:
    pytest.importorskip("peft")
    config = lm_of(chain, lora={"rank": 2, "modules": ["c_attn"]}, steps=4, begin=["word1 word2 bad", "good"])
    folder = trained(config, store)
    after = Generator.load(folder / "generator", 2, "cpu").model.state_dict()
    # what was there before is that of the config's seed
    model, begin = prepared(config.source, store).model_folder, ["word1 word2 bad", "good"]
    before = Generator.fresh(model, 2, config.seed, "cpu", begin).model.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    tables = {"transformer.wte.weight", "lm_head.weight"}
    assert changed == {f"transformer.h.{layer}.attn.c_attn.weight" for layer in range(2)} | tables
    rows = (before["transformer.wte.weight"] != after["transformer.wte.weight"]).any(dim=1).nonzero().flatten()
    generator = fresh(language_model)
    assert set(rows.tolist()) <= {*generator.begin, generator.separator}
    assert set(generator.begin) <= set(rows.tolist())
    run = Optimisation(generator, config.method, 0)  # type: ignore[arg-type]
    assert sum(each.numel() for each in run.state()["generator"].values()) < 0.2 * sum(
        t.numel() for t in after.values()
    )


@pytest.mark.parametrize("tied", [True, False])
def test_adapters_learn_how_likely_a_separator_is(tmp_path: Path, tied: bool) -> None:
    pytest.importorskip("peft")
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    with seeded(1, "llama"):
        LlamaForCausalLM(config).save_pretrained(tmp_path)
    language_tokenizer().save_pretrained(tmp_path)
    generator, before = fresh(tmp_path), fresh(tmp_path).model.state_dict()
    pairs = Sequences.of([generator.wrapped([[5, 6], [7]], label) for label in (0, 1)], [0, 1])
    method = LM(name="lm", lora={"rank": 2}, precision="fp32", steps=3, lr=1e-2, warmup_ratio=0)  # type: ignore[arg-type]
    run = Optimisation(generator, method, 0)
    run.step(lambda: language_modelling(generator, pairs, torch.arange(2)))
    after = run.finished().model.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        changed = (before[name] != after[name]).any(dim=1).nonzero().flatten().tolist()
        assert changed == sorted([*generator.begin, generator.separator])


def test_adapters_without_their_package_are_refused_with_what_to_type(
    chain: Chain, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = lm_of(chain, lora={})
    prepared(config.source, store)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match="pip install peft"):
        trained(config, store)


@pytest.mark.parametrize("dropout", [True, False])
def test_activations_computed_again_change_nothing(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: bool
) -> None:
    """The same weights at the same address, by one more forward pass a step of a layer's attention."""
    passes = 0

    def counted(*args: Any, **named: Any) -> Any:
        nonlocal passes
        passes += torch.is_grad_enabled()
        return attend(*args, **named)

    attend = GPT2Attention.forward
    monkeypatch.setattr(GPT2Attention, "forward", counted)
    found, counts = [], []
    for again in (False, True):
        store, passes = Store(tmp_path / str(again)), 0
        validation = {"every": 2, "examples": 8}  # which scores, and goes on as before
        config = lm_of(chain, gradient_checkpointing=again, steps=3, dropout=dropout, validation=validation)
        found.append((store.cell(config).digest, (trained(config, store) / "generator/model.safetensors").read_bytes()))
        counts.append(passes)
    assert found[0] == found[1]
    assert counts[1] - counts[0] == 3 * 2  # of two layers, in three steps


def test_bfloat16_is_near(chain: Chain, store: Store, language_model: Path) -> None:
    generator = fresh(language_model)
    train = generator.sequences(prepared(language_source(chain()), store).split("train"))
    exact = generator.mean_losses(train)
    generator.precision = "bf16"
    near = generator.mean_losses(train)
    assert near.dtype == torch.float32
    assert not torch.equal(near, exact)
    assert torch.allclose(near, exact, rtol=0.03)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shots": 6, "pool": {"clusters": 4}}, "allowed: 1, 2, 3, 6"),
        ({"pool": {"size": 3}}, "pool.size: 3 texts per class are fewer than the 64 of an update"),
        ({"student": {"steps": 100}}, "shorter than the 180 steps"),
        ({"student": {"epochs": 2}}, "student.epochs"),
        ({"lora": {"dropout": 0.1}, "dropout": False}, "lora.dropout: 0.1 has no effect with dropout: false"),
    ],
)
def test_what_cannot_be_matched(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DiLM.model_validate({"name": "dilm", **options})


def test_the_published_pool_is_looked_at_once() -> None:
    assert DiLM(name="dilm").pool_size == 64 * 10 * 20
    assert DiLM(name="dilm").clusters == 64


def test_heads_and_chains_are_checked(chain: Chain) -> None:
    config = chain()
    lm = language_source(config)
    encoder = config.source
    raw = config.model_dump(exclude_none=True)
    for change, said in (
        ({"source": lm.model_dump()}, "method 'generated' needs a classifier"),
        ({"parent": None}, "method 'generated' needs another cell of stage 2 that writes the set"),
    ):
        with pytest.raises(ValidationError, match=said):
            Distill.model_validate(raw | change)
    with pytest.raises(ValidationError, match="head: language"):
        Distill.model_validate({"source": encoder.model_dump(), "method": {"name": "lm"}})
    for protocol in ({"name": "finetune"}, {"name": "ddal", "step_sizes": [0.1]}):
        assert Evaluate.model_validate({"source": raw, "protocol": protocol}).shots == 2
        with pytest.raises(ValidationError, match="makes a language model, which writes sets"):
            Evaluate.model_validate({"source": raw["parent"], "protocol": protocol})
    with pytest.raises(ValidationError, match="vectors: a language model has none"):
        type(lm).model_validate(lm.model_dump() | {"vectors": "cls"})


def test_an_encoder_is_no_language_model(chain: Chain, store: Store, encoder_folder: Callable[..., Path]) -> None:
    lm = language_source(chain())
    for family, said in (("bert", "no pretrained language model"), ("electra", "no pretrained language model")):
        model = lm.model.model_copy(update={"name": str(encoder_folder(family))})
        with pytest.raises(InputError, match=said):
            prepared(lm.model_copy(update={"model": model}), store)


def test_the_same_folder_as_classifier_and_as_language_model_are_two_artifacts(chain: Chain, store: Store) -> None:
    lm = language_source(chain())
    other = lm.model_copy(update={"model": lm.model.model_copy(update={"head": "classifier"})})
    assert store.cell(lm).digest != store.cell(other).digest
