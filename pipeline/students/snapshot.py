"""Stage 1's side of a student: load an encoder once, look at what it is, and keep a copy that needs no network.

What the other stages have to know is found by looking at the model, never by its name: which parameters are drawn
anew, how many positions can be used, which attention rows the classifier reads.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pipeline.config import Model
from pipeline.data.hub import explained
from pipeline.errors import InputError
from pipeline.randomness import seeded
from pipeline.store import locate
from pipeline.store.atomic import is_full
from pipeline.students.encoder import embedding_hash


def load_encoder(config: Model, classes: int, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[str]]:
    """Loads an encoder with a head of ``classes`` outputs.

    Args:
        config: which encoder; a hub id with its revision resolved.
        classes: C.
        seed: for the weights that the checkpoint does not have.

    Returns:
        The model (float32, eager attention), its tokenizer, and the names of the parameters drawn anew per
        initialisation: the head, and whatever the checkpoint lacks.

    Raises:
        InputError: the model cannot be had, or has no usable sequence-classification head.

    """
    place = locate(config.name)
    at_hub = contextlib.nullcontext() if place else explained("model", config.name, config.revision)
    where: dict[str, Any] = {"local_files_only": True} if place else {"revision": config.revision}
    with at_hub, seeded(seed, "missing weights"):
        try:
            model, absent = _model(str(place or config.name), where, classes, config.pretrained)
        except (ValueError, KeyError, OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, OSError) and is_full(error):
                raise
            raise InputError(
                f"model {config.name}: no usable sequence classifier ({_first_line(error)}); "
                f"give an encoder such as bert-base-uncased"
            ) from error
        fresh = _fresh(config.name, model, absent)
        tokenizer = _tokenizer(config.name, str(place or config.name), where)
    _pad(model, tokenizer)
    return model, tokenizer, fresh


def load_language_model(config: Model, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a causal language model, in float32, and its tokenizer.

    Args:
        config: which one; a hub id with its revision resolved.
        seed: for the weights where they are not to be pretrained.

    Raises:
        InputError: it cannot be had, has no language-modelling head, or its tokenizer no token that ends a text.

    """
    place = locate(config.name)
    at_hub = contextlib.nullcontext() if place else explained("model", config.name, config.revision)
    where: dict[str, Any] = {"local_files_only": True} if place else {"revision": config.revision}
    name = str(place or config.name)
    advice = "give a causal language model such as openai-community/gpt2"
    with at_hub, seeded(seed, "missing weights"):
        try:
            kind = AutoConfig.from_pretrained(name, **where)
            if kind.is_encoder_decoder or type(kind) not in AutoModelForCausalLM._model_mapping:
                raise InputError(f"model {config.name}: {kind.model_type} models write no text; {advice}")
            if config.pretrained:
                model, info = AutoModelForCausalLM.from_pretrained(
                    name, **where, dtype=torch.float32, output_loading_info=True
                )
            else:
                model, info = AutoModelForCausalLM.from_config(kind, dtype=torch.float32), {"missing_keys": []}
        except (ValueError, KeyError, OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, InputError) or (isinstance(error, OSError) and is_full(error)):
                raise
            raise InputError(
                f"model {config.name}: no usable language model ({_first_line(error)}); {advice}"
            ) from error
        tokenizer = _tokenizer(config.name, name, where)
    if info["missing_keys"]:
        absent = ", ".join(sorted(info["missing_keys"])[:3])
        raise InputError(f"model {config.name}: no pretrained language model ({absent} not in its files); {advice}")
    if tokenizer.eos_token_id is None:
        raise InputError(f"model {config.name}: its tokenizer has no token that ends a text; {advice}")
    _pad(model, tokenizer)
    return model, tokenizer


def _pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id


def _model(name: str, where: dict[str, Any], classes: int, pretrained: bool) -> tuple[PreTrainedModel, set[str]]:
    """The model and the names of the parameters that its checkpoint does not have."""
    settings: dict[str, Any] = {"attn_implementation": "eager", "dtype": torch.float32}
    if not pretrained:
        config = AutoConfig.from_pretrained(name, **where, num_labels=classes)
        model = AutoModelForSequenceClassification.from_config(config, **settings)
        return model, {parameter for parameter, _ in model.named_parameters()}
    model, info = AutoModelForSequenceClassification.from_pretrained(
        name, **where, **settings, num_labels=classes, ignore_mismatched_sizes=True, output_loading_info=True
    )
    mismatched = {key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"]}
    return model, {*info["missing_keys"], *mismatched}


def describe(model: PreTrainedModel, fresh: list[str]) -> dict[str, Any]:
    """What the other stages have to know of a student; plain JSON values."""
    return {
        "architecture": type(model).__name__,
        "fresh_parameters": fresh,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "positions": usable_positions(model),
        "embedding_width": model.get_input_embeddings().embedding_dim,
        "embedding_hash": embedding_hash(model.get_input_embeddings().weight),
        **_attention(model),
    }


def usable_positions(model: PreTrainedModel) -> int | None:
    """Longest input in tokens, or ``None`` for models without learned positions.

    RoBERTa-like models number positions from ``padding_idx + 1``, so that many rows of their table are never used.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and ("position_embeddings" in name or name.endswith("wpe")):
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - offset
    return None


def _tokenizer(asked: str, name: str, where: dict[str, Any]) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, **where)
    except Exception as error:  # whatever a tokenizer's own code raises
        raise InputError(
            f"model {asked}: no usable tokenizer beside it ({_first_line(error)}); save the tokenizer there too"
        ) from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        # without its files, transformers makes one that knows no word and reads every text as unknown tokens
        raise InputError(
            f"model {asked}: no usable tokenizer beside it (its vocabulary is empty); save the tokenizer there too"
        )
    return tokenizer


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]


def _fresh(name: str, model: PreTrainedModel, absent: set[str]) -> list[str]:
    if model.config.is_encoder_decoder:
        raise InputError(
            f"model {name}: an encoder-decoder, which takes no input embeddings; "
            f"give an encoder such as bert-base-uncased"
        )
    body = getattr(model, model.base_model_prefix, None)
    if body is None or body is model:
        raise InputError(
            f"model {name}: its head cannot be told from its body; give an encoder such as bert-base-uncased"
        )
    inside = {f"{model.base_model_prefix}.{parameter}" for parameter, _ in body.named_parameters()}
    names = [parameter for parameter, _ in model.named_parameters()]
    if all(parameter in inside for parameter in names):
        raise InputError(f"model {name}: no sequence-classification head; give an encoder such as bert-base-uncased")
    return [parameter for parameter in names if parameter in absent or parameter not in inside]


def _attention(model: PreTrainedModel) -> dict[str, Any]:
    """Layers and heads of the attention maps, and whether the classifier reads the first token and nothing else.

    The gradient of the logits with respect to the last layer's attention probabilities is non-zero in exactly the
    query rows that the head depends on: row 0 for [CLS] encoders, the last row for causal models and XLNet.
    """
    model.eval()
    with seeded(0, "probe"):
        inputs = torch.randn(2, 8, model.get_input_embeddings().embedding_dim)
    try:
        output = model(inputs_embeds=inputs, output_attentions=True)
        (gradient,) = torch.autograd.grad(output.logits.sum(), output.attentions[-1], allow_unused=True)
    except Exception:
        return {"attention_layers": 0, "attention_heads": 0, "reads_first_token": False}
    first, *_ = output.attentions
    rows = [] if gradient is None else gradient.abs().sum(dim=(0, 1, 3)).nonzero().flatten().tolist()
    sees_all = bool((first[:, :, 0] > 0).all())
    return {
        "attention_layers": len(output.attentions),
        "attention_heads": first.shape[1],
        "reads_first_token": rows == [0] and sees_all,
    }


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes the snapshot: config, safetensors, tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
