"""Whether a student is a post-norm encoder that the fused passes cover, and which of its parameters is what.

Found from the model's parameters, modules and config, never from its class or its name: every parameter must have a
place in :class:`~pipeline.bilevel.fused.structure.PostNorm`, and what parameters do not show is found by running the
model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from transformers import PreTrainedModel

from pipeline.bilevel.fused import Fused
from pipeline.bilevel.fused.structure import Activation, PostNorm, places
from pipeline.randomness import torch_generator
from pipeline.students.packing import packed

_WORDS = "embeddings.word_embeddings.weight"
# Owner of a parameter, below the body and below one layer -> its place. The second names of a place are DistilBERT's.
_BODY = {
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "segments",
    "embeddings.LayerNorm": "norm",
    "embeddings_project": "project",
    "pooler.dense": "dense",
}
_LAYER = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "context",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "output_norm",
    "attention.q_lin": "query",
    "attention.k_lin": "key",
    "attention.v_lin": "value",
    "attention.out_lin": "context",
    "sa_layer_norm": "attention_norm",
    "ffn.lin1": "up",
    "ffn.lin2": "down",
    "output_layer_norm": "output_norm",
}
# The classifier lies beside the body: BERT, then RoBERTa and ELECTRA, then DistilBERT.
_HEAD = {
    "classifier": "logits",
    "classifier.dense": "dense",
    "classifier.out_proj": "logits",
    "pre_classifier": "dense",
}
_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "tanh": torch.tanh}


def structure_of(model: PreTrainedModel) -> PostNorm | str:
    """The structure of a BERT-family sequence classifier, or one clause that says why it is none.

    What this finds is a claim, which :func:`proof` compares with the model.
    """
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    at = words_name(model)
    if not at.endswith(_WORDS):
        return f"its word embeddings are {at or 'no parameter'}, not {_WORDS}"
    names: dict[str, str] = {}
    for name in parameters:
        if name != at:
            place = _place(name, at.removesuffix(_WORDS))
            if place is None or place in names:
                return f"its parameter {name} has no place in a post-norm encoder"
            names[place] = name
    wrong = _wrong_shapes(names, parameters, parameters[at].shape[1])
    if wrong is not None:
        return wrong
    return _described(model, names, {place: tuple(parameters[name].shape) for place, name in names.items()})


def _place(name: str, prefix: str) -> str | None:
    """The place of a parameter: of the body where its name begins with ``prefix``, else of the classifier."""
    owner, _, kind = name.rpartition(".")
    found: str | None = None
    if name.startswith(prefix):
        inside = owner.removeprefix(prefix)
        layer = re.fullmatch(r"(?:encoder|transformer)\.layer\.(\d+)\.(.+)", inside)
        part = _LAYER.get(layer[2]) if layer else _BODY.get(inside)
        found = f"{layer[1]}.{part}" if layer and part else part
    # a body without a name of its own (prefix "") shares its names with the classifier
    found = found or _HEAD.get(owner)
    if found in ("positions", "segments"):
        return found if kind == "weight" else None
    return f"{found}.{kind}" if found and kind in ("weight", "bias") else None


def _layers(names: Mapping[str, str]) -> int:
    return len({place.split(".")[0] for place in names if place[0].isdigit()})


def _wrong_shapes(names: Mapping[str, str], parameters: Mapping[str, Tensor], width: int) -> str | None:
    """What is missing or does not fit, where something is."""
    wanted = [
        place for place in places(max(1, _layers(names))) if place != "segments" and not place.startswith("project")
    ]
    missing = next((place for place in wanted if place not in names), None)
    if missing is not None:
        return f"it has no parameter for {missing} of a post-norm encoder"
    hidden, inner = parameters[names["0.query.weight"]].shape[-1], len(parameters[names["0.up.weight"]])
    if width != hidden and "project.weight" not in names:
        return f"its word embeddings are {width} wide, its layers {hidden}, and nothing lies between them"
    for place, name in names.items():
        found = tuple(parameters[name].shape)
        if found != _shape(place, found, width, hidden, inner):
            return f"its parameter {name} is {list(found)}, which does not fit hidden size {hidden}"
    return None


def _shape(place: str, found: tuple[int, ...], width: int, hidden: int, inner: int) -> tuple[int, ...]:
    """The shape that a place must have; rows of the tables and of the classifier are as found."""
    part = re.sub(r"^\d+\.|\.(weight|bias)$", "", place)
    rows = {"up": inner, "norm": width}.get(part, hidden)
    if part in ("positions", "segments", "logits"):
        rows = found[0]
    columns = {"down": inner, "positions": width, "segments": width, "project": width}.get(part, hidden)
    return (rows,) if place.endswith("bias") or part.endswith("norm") else (rows, columns)


def _described(
    model: PreTrainedModel, names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> PostNorm | str:
    """The structure, once every parameter has its place."""
    norms = [_owner(model, name) for place, name in names.items() if place.endswith("norm.weight")]
    if not all(isinstance(norm, nn.LayerNorm) for norm in norms) or len({norm.eps for norm in norms}) > 1:
        return "its layer norms are not all alike"
    hidden, heads = shapes["0.query.weight"][1], getattr(model.config, "num_attention_heads", None)
    if not isinstance(heads, int) or hidden % heads:
        return f"its hidden size {hidden} is not a multiple of its attention heads, {heads}"
    activations = _activations(model, names, _layers(names))
    if isinstance(activations, str):
        return activations
    padding: int | None = getattr(_owner(model, names["positions"]), "padding_idx", None)
    return PostNorm(
        hidden=hidden,
        heads=heads,
        layers=_layers(names),
        epsilon=norms[0].eps,
        # as snapshot.usable_positions has it: RoBERTa-like models number positions from here
        first_position=0 if padding is None else padding + 1,
        activation=activations[0],
        head_activation=activations[1],
        names=dict(names),
        shapes=dict(shapes),
    )


def _owner(model: PreTrainedModel, name: str) -> Any:
    return model.get_submodule(name.rpartition(".")[0])


def _activations(model: PreTrainedModel, names: Mapping[str, str], layers: int) -> tuple[Activation, Activation] | str:
    """The activations of the feed-forwards and of the classifier.

    No parameter shows them, so known values are put behind the first linear layer of every pair, and what reaches the
    second one is looked at.
    """
    pairs = [(f"{layer}.up.weight", f"{layer}.down.weight") for layer in range(layers)]
    pairs.append(("dense.weight", "logits.weight"))
    seen: dict[str, Tensor] = {}
    hooks = []
    for first, second in pairs:
        hooks.append(_owner(model, names[first]).register_forward_hook(lambda _, inputs, output: _known(output)))
        hooks.append(
            _owner(model, names[second]).register_forward_pre_hook(
                lambda _, inputs, second=second: seen.update({second: inputs[0]})
            )
        )
    width = model.get_input_embeddings().embedding_dim
    try:
        with evaluating(model):
            model(inputs_embeds=torch.ones(1, 4, width, dtype=model.dtype, device=model.device))
    except Exception as error:  # whatever a model's own code raises where it does not take input embeddings
        return f"it does not run on input embeddings ({type(error).__name__})"
    finally:
        for hook in hooks:
            hook.remove()
    found = [_recognised(seen[second]) if second in seen else None for _, second in pairs]
    known = ", ".join(_ACTIVATIONS)
    *inside, head = found
    if head is None:
        return f"its classifier is not two linear layers with one of {known} between them"
    if inside[0] is None or len(set(inside)) > 1:
        return f"its feed-forwards are not two linear layers with one of {known} between them"
    return inside[0], head


def _known(like: Tensor) -> Tensor:
    """Values of [..., width] between which the activations differ."""
    return torch.linspace(-12, 12, like.shape[-1]).to(like).expand_as(like)


def _recognised(values: Tensor) -> Activation | None:
    """Which activation of the known values ``values`` [..., width] are."""
    exact = {name: function(_known(values)) for name, function in _ACTIVATIONS.items()}
    return next((name for name, wanted in exact.items() if (values - wanted).abs().max() < 1e-5), None)


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block: no dropout, no graph, and products in full precision on CUDA."""
    training, tf32 = model.training, torch.backends.cuda.matmul.allow_tf32
    model.eval()
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
        torch.backends.cuda.matmul.allow_tf32 = tf32


def proof(model: PreTrainedModel, fused: Fused) -> bool:
    """Whether the fused passes compute what the model does, on inputs drawn for the purpose.

    Compared are logits and the first token's attention of synthetic samples, and logits of padded text with segments.
    Biases, norms, tables and the classifier are shifted by random amounts, so that what is 0 or 1 by chance is seen.
    """
    parameters = _shifted(model, fused.structure)
    inputs, text = _drawn(model, fused.structure.shapes.get("segments", (0,))[0])
    try:
        with evaluating(model):
            output = functional_call(model, parameters, kwargs={"inputs_embeds": inputs, "output_attentions": True})
            rows = torch.stack([maps[:, :, 0] for maps in output.attentions], dim=1)
            of_text = functional_call(model, parameters, kwargs=text).logits
    except Exception:  # whatever a model's own code raises
        return False
    theta = fused.pack(parameters)
    with evaluating(model):
        logits, fused_rows = fused.forward_rows(theta, inputs)
        (chunk,) = packed(text, parameters[words_name(model)])
        pairs = [(logits, output.logits), (fused_rows, rows), (fused.at(theta).logits(chunk), of_text[chunk.order])]
    return all(_equal(found, wanted) for found, wanted in pairs)


def words_name(model: PreTrainedModel) -> str:
    """The parameter that is the table of word embeddings; empty where it is none."""
    words = model.get_input_embeddings().weight
    return next((name for name, parameter in model.named_parameters() if parameter is words), "")


def _shifted(model: PreTrainedModel, structure: PostNorm) -> dict[str, Tensor]:
    """The model's parameters with random additions to all but the layers' matrices, which are never trivial."""
    generator = torch_generator(0, "proof")
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for place, name in structure.names.items():
        if len(structure.shapes[place]) == 1 or not place[0].isdigit():
            noise = torch.randn(structure.shapes[place], generator=generator).to(parameters[name])
            parameters[name] = parameters[name] + 0.1 * noise
    return parameters


def _drawn(model: PreTrainedModel, segments: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Input embeddings [2, 8, E], and a batch of 8 and 5 tokens, with two of the model's segments where it has them."""
    generator, table = torch_generator(0, "proof inputs"), model.get_input_embeddings()
    inputs = torch.randn(2, 8, table.embedding_dim, generator=generator).to(table.weight)
    padding, vocabulary = table.padding_idx or 0, table.num_embeddings
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, 5:] = 0
    ids = (padding + 1 + torch.randint(vocabulary - 1, (2, 8), generator=generator)) % vocabulary
    text = {"input_ids": torch.where(mask == 1, ids, padding), "attention_mask": mask}
    if segments:
        text["token_type_ids"] = mask * (torch.arange(8) >= 4) * (segments > 1)
    return inputs, {name: tensor.to(table.weight.device) for name, tensor in text.items()}


def _equal(found: Tensor, wanted: Tensor) -> bool:
    """Equal up to rounding: eager float32 itself is up to 5e-6 away from float64 here (MiniLM, BERT-large)."""
    if found.shape != wanted.shape:
        return False
    bound = 1e-10 if wanted.dtype == torch.float64 else 1e-4
    return bool((found - wanted).abs().max() <= bound * wanted.abs().max())
