"""Which students the fused passes cover, and that what is found reproduces the model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from pipeline.bilevel.fused.structure import PostNorm, places
from pipeline.students.postnorm import structure_of, words_name
from tests.conftest import bert, encoder

COVERED = {
    "bert": ("tanh", 0),
    "roberta": ("tanh", 1),
    "electra": ("gelu", 0),
    "distilbert": ("relu", 0),
}
ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "tanh": torch.tanh}


def forward(structure: PostNorm, parameters: dict[str, Tensor], inputs: Tensor) -> tuple[Tensor, Tensor]:
    """What the structure says that the model computes: logits [m, C] and attention [m, L, heads, S, S]."""
    at = {place: parameters[name] for place, name in structure.names.items()}
    heads = structure.heads

    def linear(place: str, x: Tensor) -> Tensor:
        return F.linear(x, at[f"{place}.weight"], at[f"{place}.bias"])

    def norm(place: str, x: Tensor) -> Tensor:
        weight, bias = at[f"{place}.weight"], at[f"{place}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, structure.epsilon)

    m, S, _ = inputs.shape
    x = inputs + at["positions"][structure.first_position :][:S]
    x = norm("norm", x + at["segments"][0] if "segments" in at else x)
    x = linear("project", x) if "project.weight" in at else x
    maps = []
    for layer in range(structure.layers):
        q, k, v = (
            linear(f"{layer}.{part}", x).view(m, S, heads, -1).transpose(1, 2) for part in ("query", "key", "value")
        )
        p = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        maps.append(p)
        context = (p @ v).transpose(1, 2).reshape(m, S, -1)
        x = norm(f"{layer}.attention_norm", x + linear(f"{layer}.context", context))
        between = ACTIVATIONS[structure.activation](linear(f"{layer}.up", x))
        x = norm(f"{layer}.output_norm", x + linear(f"{layer}.down", between))
    head = ACTIVATIONS[structure.head_activation](linear("dense", x[:, 0]))
    return linear("logits", head), torch.stack(maps, dim=1)


def shifted(model: PreTrainedModel) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: parameter.detach() + 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)
        for name, parameter in model.named_parameters()
    }


@pytest.mark.parametrize("family", COVERED)
def test_the_structure_says_what_the_model_computes(family: str) -> None:
    model = encoder(family).double()
    structure = structure_of(model)
    assert isinstance(structure, PostNorm), structure
    head, first_position = COVERED[family]
    assert (structure.hidden, structure.heads, structure.layers) == (32, 4, 2)
    assert (structure.activation, structure.head_activation) == ("gelu", head)
    assert (structure.epsilon, structure.first_position) == (1e-12, first_position)
    assert {*structure.names.values(), words_name(model)} == {name for name, _ in model.named_parameters()}
    assert set(structure.names) <= set(places(2))
    assert all(structure.shapes[place] == model.get_parameter(name).shape for place, name in structure.names.items())
    parameters = shifted(model)
    inputs = torch.randn(3, 9, model.get_input_embeddings().embedding_dim, dtype=torch.float64)
    with torch.no_grad():
        output = functional_call(model, parameters, kwargs={"inputs_embeds": inputs, "output_attentions": True})
        logits, maps = forward(structure, parameters, inputs)
    torch.testing.assert_close(logits, output.logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(maps, torch.stack(output.attentions, dim=1), rtol=0, atol=1e-12)


def test_looking_leaves_the_model_as_it_was() -> None:
    model = encoder("bert").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.random.fork_rng():
        state = torch.random.get_rng_state()
        structure_of(model)
        assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("changes", "found"),
    [({"hidden_act": "relu"}, "relu"), ({"hidden_act": "gelu_python"}, "gelu"), ({"hidden_act": "tanh"}, "tanh")],
)
def test_an_activation_is_known_by_what_it_computes(changes: dict[str, Any], found: str) -> None:
    structure = structure_of(bert(**changes))
    assert isinstance(structure, PostNorm)
    assert structure.activation == found


def test_another_head_is_seen() -> None:
    model = bert()
    model.bert.pooler.activation = nn.ReLU()
    structure = structure_of(model)
    assert isinstance(structure, PostNorm)
    assert structure.head_activation == "relu"


# --- models that are not covered -----------------------------------------------------------------------------------


def _without_pooler() -> PreTrainedModel:
    class NoPooler(BertForSequenceClassification):
        def __init__(self, config: BertConfig) -> None:
            super().__init__(config)
            self.bert.pooler = None

    return NoPooler(bert().config)


def _with(change: Callable[[Any], object], **changes: Any) -> Callable[[], PreTrainedModel]:
    def changed() -> PreTrainedModel:
        model = bert(**changes)
        change(model)
        return model

    return changed


def _register(model: Any) -> None:
    model.bert.encoder.layer[1].gate = nn.Parameter(torch.ones(32))


def _one_epsilon(model: Any) -> None:
    model.bert.encoder.layer[1].output.LayerNorm.eps = 1e-5


def _narrow(model: Any) -> None:
    model.bert.encoder.layer[1].intermediate.dense = nn.Linear(32, 48)


def _silu_head(model: Any) -> None:
    model.bert.pooler.activation = nn.SiLU()


def _mixed(model: Any) -> None:
    model.bert.encoder.layer[1].intermediate.intermediate_act_fn = nn.ReLU()


def _frozen_words(model: Any) -> None:
    words = model.bert.embeddings.word_embeddings
    weight = words.weight.detach()
    del words.weight
    words.register_buffer("weight", weight)


def _two_heads(model: Any) -> None:
    model.pre_classifier = nn.Linear(32, 32)


def _no_inputs(model: Any) -> None:
    forward = model.forward
    model.forward = lambda input_ids, **others: forward(input_ids, **others)


REASONS: dict[str, tuple[Callable[[], PreTrainedModel], str]] = {
    "albert": (
        lambda: encoder("albert"),
        "its parameter albert.encoder.embedding_hidden_mapping_in.weight has no place",
    ),
    "mpnet": (lambda: encoder("mpnet"), "its parameter mpnet.encoder.layer.0.attention.attn.q.weight has no place"),
    "gpt2": (lambda: encoder("gpt2"), "its word embeddings are transformer.wte.weight"),
    "xlnet": (lambda: encoder("xlnet"), "its word embeddings are transformer.word_embedding.weight"),
    "gelu_new": (lambda: bert(hidden_act="gelu_new"), "its feed-forwards are not two linear layers with one of gelu"),
    "two activations": (_with(_mixed), "its feed-forwards are not two linear layers with one of gelu"),
    "another head": (_with(_silu_head), "its classifier is not two linear layers with one of gelu, relu, tanh"),
    "an extra parameter": (_with(_register), "its parameter bert.encoder.layer.1.gate has no place"),
    "a second head": (_with(_two_heads), "its parameter pre_classifier.weight has no place"),
    "no pooler": (_without_pooler, "it has no parameter for dense.weight"),
    "layer norms of two kinds": (_with(_one_epsilon), "its layer norms are not all alike"),
    "a layer of another width": (
        _with(_narrow),
        "its parameter bert.encoder.layer.1.intermediate.dense.weight is [48, 32]",
    ),
    "frozen words": (_with(_frozen_words), "its word embeddings are no parameter"),
    "no input embeddings": (_with(_no_inputs), "it does not run on input embeddings (TypeError)"),
}


@pytest.mark.parametrize("name", REASONS)
def test_a_reason_is_given(name: str) -> None:
    make, reason = REASONS[name]
    said = structure_of(make())
    assert isinstance(said, str)
    assert said.startswith(reason)
    assert "\n" not in said
