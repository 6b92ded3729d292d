"""A claimed structure is compared with the model itself, and nothing else is believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.bilevel.fused import Fused, PostNorm
from pipeline.students.postnorm import proof, structure_of
from tests.conftest import bert, encoder

COVERED = ["bert", "roberta", "electra", "distilbert"]


def patched(change: Callable[[Any], object]) -> PreTrainedModel:
    model = bert()
    change(model)
    return model


def proven(model: PreTrainedModel, **changes: Any) -> bool:
    structure = structure_of(model)
    assert isinstance(structure, PostNorm), structure
    return proof(model, Fused(replace(structure, **changes), lambda batch: []))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", COVERED)
def test_what_is_covered_is_proven(family: str, dtype: torch.dtype) -> None:
    assert proven(encoder(family).to(dtype))


@pytest.mark.parametrize(
    "changes",
    [
        {"heads": 2},
        {"epsilon": 1e-3},
        {"first_position": 1},
        {"activation": "relu"},
        {"head_activation": "gelu"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_wrong_claim_is_not_proven(changes: dict[str, Any]) -> None:
    assert not proven(bert(), **changes)


def test_a_layer_too_few_is_not_proven() -> None:
    assert proven(bert(num_hidden_layers=3))
    assert not proven(bert(num_hidden_layers=3), layers=2)


def test_exchanged_parameters_are_not_proven() -> None:
    names = dict(structure_of(bert()).names)
    for one, other in [("0.query", "0.key"), ("1.attention_norm", "1.output_norm")]:
        exchanged = names | {
            f"{a}.{kind}": names[f"{b}.{kind}"] for a, b in ((one, other), (other, one)) for kind in ("weight", "bias")
        }
        assert not proven(bert(), names=exchanged)


def _scaled_attention(model: Any, factor: float = 1.1) -> None:
    attention = model.bert.encoder.layer[1].attention.self
    forward = attention.forward
    attention.forward = lambda hidden, *a, **others: forward(factor * hidden, *a, **others)


def _shared_layer(model: Any) -> None:
    model.bert.encoder.layer[1] = model.bert.encoder.layer[0]


def _one_position(model: Any) -> None:
    model.bert.embeddings.position_ids.zero_()


def _buffer(model: Any) -> None:
    forward = model.classifier.forward
    model.classifier.forward = lambda x: forward(x) + 1


def _segments_dropped(model: Any) -> None:
    """Wrong on real text alone."""
    forward = model.bert.forward
    model.bert.forward = lambda *a, token_type_ids=None, **others: forward(*a, **others)


def _mask_dropped(model: Any) -> None:
    forward = model.bert.forward
    model.bert.forward = lambda input_ids=None, attention_mask=None, **others: forward(input_ids, **others)


def _no_maps(model: Any) -> None:
    forward = model.forward
    model.forward = lambda *a, output_attentions=False, **others: forward(*a, **others)


def _other_maps(change: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]) -> Callable[[Any], None]:
    """Right logits alone: attention labels would be wrong."""

    def patch(model: Any) -> None:
        forward = model.forward

        def changed(*a: Any, **others: Any) -> Any:
            output = forward(*a, **others)
            output.attentions = change(output.attentions or ())
            return output

        model.forward = changed

    return patch


DIFFERENT = {
    "maps of other layers": _other_maps(lambda maps: maps[::-1]),
    "more maps than layers": _other_maps(lambda maps: maps * 2),
    "attention": _scaled_attention,
    "a shared layer": _shared_layer,
    "one position for all": _one_position,
    "a constant in the classifier": _buffer,
    "no segments": _segments_dropped,
    "no mask": _mask_dropped,
    "no attention maps": _no_maps,
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_model_that_computes_something_else_is_not_proven(name: str) -> None:
    assert not proven(patched(DIFFERENT[name]))


def test_a_model_that_computes_the_same_in_another_way_is_proven() -> None:
    assert proven(patched(lambda model: _scaled_attention(model, 1.0)))
    assert proven(patched(_other_maps(lambda maps: maps)))


def test_a_decoder_is_not_proven() -> None:
    assert not proven(bert(is_decoder=True))
