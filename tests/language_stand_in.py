"""Tiny causal language models of several families that read bytes, with random weights."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from pipeline.randomness import seeded

_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
_VOCABULARY = ["<end>", *_ALPHABET, "Ġg", "Ġb"]
_SIZES = {"vocab_size": len(_VOCABULARY), "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.3}


def byte_tokenizer(*, begins: bool = False) -> PreTrainedTokenizerFast:
    """A token per byte, `` g`` and `` b`` one each; ``begins`` puts ``<end>`` before every text, as OPT does."""
    ids = {token: at for at, token in enumerate(_VOCABULARY)}
    found = Tokenizer(models.BPE(ids, [("Ġ", "g"), ("Ġ", "b")]))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    if begins:
        found.post_processor = processors.TemplateProcessing(single="<end> $A", special_tokens=[("<end>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=found, bos_token="<end>", eos_token="<end>", pad_token="<end>")


def byte_model(family: str, positions: int = 400) -> PreTrainedModel:
    """Two layers that depend on every token and its place."""
    with seeded(13, family):
        if family == "gpt2":
            return GPT2LMHeadModel(GPT2Config(**_SIZES, n_embd=32, n_layer=2, n_head=4, n_positions=positions)).eval()
        if family == "opt":
            shape = {"hidden_size": 32, "word_embed_proj_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
            sizes = {name: value for name, value in _SIZES.items() if name != "initializer_range"} | {"init_std": 0.3}
            return OPTForCausalLM(
                OPTConfig(**sizes, **shape, ffn_dim=64, max_position_embeddings=positions, pad_token_id=0)
            ).eval()
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        return LlamaForCausalLM(
            LlamaConfig(**_SIZES, **shape, intermediate_size=64, max_position_embeddings=positions)
        ).eval()


def byte_folder(folder: Path, family: str = "gpt2", positions: int = 400) -> Path:
    """Model and tokenizer as a user would have them."""
    if not (folder / "config.json").exists():
        byte_model(family, positions).save_pretrained(folder)
        byte_tokenizer(begins=family == "opt").save_pretrained(folder)
    return folder
