"""The hand-derived passes against autograd on the library's own models, in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification, PreTrainedModel

from pipeline.bilevel import InnerBatch
from pipeline.bilevel.autograd import Autograd
from pipeline.bilevel.fused import FlatParameters, Fused, attention, elementwise, passes
from pipeline.bilevel.fused.grid import Grid
from pipeline.randomness import seeded
from pipeline.students.encoder import Student
from pipeline.students.packing import packed
from pipeline.students.postnorm import structure_of

C = 3
FAMILIES = ["bert", "roberta", "electra", "distilbert"]


def shaken(model: PreTrainedModel) -> PreTrainedModel:
    """In float64, with no parameter at 0 or 1, where mistakes would hide."""
    model = model.double().eval()
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def loaded(folder: Path) -> PreTrainedModel:
    with seeded(0, "head"):
        found = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=C, attn_implementation="eager")
    return shaken(found)


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, encoder_folder: Callable[[str], Path]) -> PreTrainedModel:
    return loaded(encoder_folder(request.param))


def engines(model: PreTrainedModel) -> tuple[dict[str, Tensor], Fused, Autograd]:
    """θ by name, and both ways to differentiate."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    structure = structure_of(model)
    assert not isinstance(structure, str), structure
    student = Student(model, [])
    return parameters, Fused(structure, student.packed), Autograd(student, parameters)


def inner_batch(model: PreTrainedModel, m: int, S: int, rows: int) -> InnerBatch:
    generator = torch.Generator().manual_seed(5)
    config: Any = model.config

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    maps = draw(m, config.num_hidden_layers, config.num_attention_heads, rows, S).softmax(-1) if rows else None
    width = model.get_input_embeddings().embedding_dim
    return InnerBatch(draw(m, S, width), draw(m, C), maps, 1.3, torch.tensor(0.2, dtype=torch.float64))


def direction(fused: Fused, parameters: dict[str, Tensor]) -> Tensor:
    flat = fused.pack(parameters)[0]
    return torch.randn(flat.shape, generator=torch.Generator().manual_seed(8), dtype=flat.dtype)


def compare(model: PreTrainedModel, batch: InnerBatch) -> None:
    """g, ⟨g, v⟩ and its derivatives, with kept activations and without."""
    parameters, fused, autograd = engines(model)
    flat, v = fused.pack(parameters), direction(fused, parameters)
    by_name = fused.unpack((v,), {name: torch.zeros_like(value) for name, value in parameters.items()})
    theta = autograd.pack(parameters)
    wanted_g, _ = autograd.gradient(theta, batch, 0)
    wanted = autograd.along(theta, batch, 0, autograd.pack(by_name), curvature=True)
    assert wanted.curvature is not None

    def same(found: Tensor, expected: Any, what: str) -> None:
        named = fused.unpack((found,), {})
        largest = max(part.abs().max() for part in expected if part is not None)
        for name, part in zip(parameters, expected, strict=True):
            if part is None:
                assert name not in named or not named[name].any(), f"{what} of {name}"
            else:
                torch.testing.assert_close(
                    named[name], part, rtol=1e-9, atol=1e-12 * largest.item(), msg=f"{what} {name}"
                )

    g, traces = fused.gradient(flat, batch, 0, keep=True)
    assert g[0] is not None
    same(g[0], wanted_g, "gradient")
    for kept in (traces, None):
        found = fused.along(flat, batch, 0, (v,), kept=kept, curvature=True)
        assert found.curvature is not None
        assert found.curvature[0] is not None
        same(found.curvature[0], wanted.curvature, "curvature")
        for name in ("value", "inputs", "labels", "attention"):
            ours, theirs = getattr(found, name), getattr(wanted, name)
            if theirs is None:
                assert ours is None
            else:
                torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11 * theirs.abs().max().item(), msg=name)
    bare = fused.along(flat, batch, 0, (v,), curvature=False)
    assert bare.curvature is None
    torch.testing.assert_close(bare.inputs, wanted.inputs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_inner_derivatives_equal_autograd(model: PreTrainedModel, rows: int) -> None:
    compare(model, inner_batch(model, 3, 7, rows))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(passes._CHUNK, "cpu", 8)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_chunks_add_up(encoder_folder: Callable[[str], Path], rows: int) -> None:
    model = loaded(encoder_folder("bert"))
    compare(model, inner_batch(model, 3, 7, rows))


@pytest.fixture(params=[(1, 4), (256, 0), (1, 0)], ids=["one head at a time", "maps not kept", "neither"])
def other_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Attention as for long sequences."""
    one_by_one, keep = request.param
    monkeypatch.setattr(attention, "_ONE_BY_ONE", one_by_one)
    monkeypatch.setattr(attention, "_KEEP_MAPS", keep)
    return


@pytest.mark.usefixtures("other_way")
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_attention_of_long_sequences(encoder_folder: Callable[[str], Path], rows: int) -> None:
    model = loaded(encoder_folder("bert"))
    compare(model, inner_batch(model, 2, 7, rows))


def test_long_sequences_in_float32() -> None:
    """The path through oneDNN, one head at a time: as near to float64 as autograd in float32 is."""
    config = BertConfig(
        vocab_size=30, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=300, num_labels=C, attn_implementation="eager",
    )  # fmt: skip
    with seeded(1, "long"):
        model = shaken(BertForSequenceClassification(config))
    batch = inner_batch(model, 2, 270, 1)
    parameters, fused, autograd = engines(model)
    v = direction(fused, parameters)
    true = fused.along(fused.pack(parameters), batch, 0, (v,), curvature=False)

    model, narrow = model.float(), batch_in(batch, torch.float32)
    parameters, fused, autograd = engines(model)
    by_name = fused.unpack((v.float(),), {name: torch.zeros_like(value) for name, value in parameters.items()})
    ours = fused.along(fused.pack(parameters), narrow, 0, (v.float(),), curvature=False)
    theirs = autograd.along(autograd.pack(parameters), narrow, 0, autograd.pack(by_name), curvature=False)
    error, bound = ((found.inputs - true.inputs).norm() / true.inputs.norm() for found in (ours, theirs))
    assert error < 3 * bound
    assert bound < 1e-3


def batch_in(batch: InnerBatch, dtype: torch.dtype) -> InnerBatch:
    changed = {n: v.to(dtype) for n, v in vars(batch).items() if isinstance(v, Tensor)}
    return dataclasses.replace(batch, **changed)


def text(model: PreTrainedModel) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(9)
    lengths = torch.tensor([9, 3, 6, 9, 1])
    mask = (torch.arange(9) < lengths[:, None]).long()
    ids = torch.randint(5, 40, (5, 9), generator=generator) * mask
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1, 2, 1, 0])}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        batch["token_type_ids"] = (torch.arange(9) > 4).long() * mask
    return batch


@pytest.mark.parametrize("tokens", [9, 512])
def test_real_batches_equal_the_model(model: PreTrainedModel, tokens: int) -> None:
    parameters, fused, _ = engines(model)
    fused._pack = lambda batch: packed(batch, model.get_input_embeddings().weight.detach(), tokens)
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    batches = [text(model), {name: value[:2] for name, value in text(model).items()}]
    total = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        logits = functional_call(model, leaves, (), inputs).logits
        total = total + F.cross_entropy(logits, batch["labels"], reduction="sum") / 7
    gradients = torch.autograd.grad(4 * total, list(leaves.values()), allow_unused=True)
    loss, (v,) = fused.outer(fused.pack(parameters), batches, 4.0)
    assert loss.item() == pytest.approx(total.item(), rel=1e-12)
    for name, gradient in zip(leaves, gradients, strict=True):
        if gradient is not None and "word_embeddings" not in name:
            torch.testing.assert_close(fused.unpack((v,), {})[name], gradient, rtol=1e-9, atol=1e-13, msg=name)


def test_bfloat16_changes_the_outer_gradient_a_little(encoder_folder: Callable[[str], Path]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder_folder("bert", pretrained=True), num_labels=C, attn_implementation="eager"
    ).eval()
    parameters, fused, _ = engines(model)
    half = Fused(fused.structure, fused._pack, torch.bfloat16)
    theta = fused.pack(parameters)
    (_, (exact,)), (_, (rounded,)) = (one.outer(theta, [text(model)]) for one in (fused, half))
    assert exact.dtype == rounded.dtype == torch.float32
    error = ((rounded - exact).norm() / exact.norm()).item()
    assert 1e-4 < error < 5e-2


@pytest.mark.parametrize("kind", ["gelu", "relu", "tanh"])
def test_activations(kind: Any) -> None:
    u = torch.linspace(-4, 4, 41, dtype=torch.float64, requires_grad=True)
    dg, dg_t, u_t = (torch.randn(41, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(3))
    y = elementwise.activate(u, kind)
    assert torch.equal(y, {"gelu": F.gelu, "relu": F.relu, "tanh": torch.tanh}[kind](u))
    (du,) = torch.autograd.grad(y, u, dg, create_graph=True)
    torch.testing.assert_close(elementwise.times_slope(dg, u.detach(), kind), du.detach())
    second = torch.autograd.grad(du, u, u_t, allow_unused=True)[0] if du.requires_grad else None
    expected = dg_t * elementwise.slope(u.detach(), kind) + (0 if second is None else second)
    first, tangent = elementwise.back_and_tangent(dg, dg_t.clone(), u.detach(), u_t, kind)
    torch.testing.assert_close(first, du.detach())
    torch.testing.assert_close(tangent, expected)


def test_flat_parameters_round_trip(model: PreTrainedModel) -> None:
    parameters, fused, _ = engines(model)
    (flat,) = fused.pack(parameters)
    back = fused.unpack((flat,), {})
    assert set(parameters) - set(back) == {name for name in parameters if "word_embeddings" in name}
    for name, value in back.items():
        assert torch.equal(value, parameters[name])
    assert FlatParameters(fused.structure).size == sum(value.numel() for value in back.values())


def test_grid_moves_tokens_to_heads_and_back() -> None:
    x = torch.arange(5 * 8, dtype=torch.float32).view(5, 8)
    grid = Grid(2, 4, torch.tensor([0, 1, 2, 4, 5]))
    heads = grid.to_heads(x, 2)
    assert heads.shape == (4, 4, 4)
    assert torch.equal(heads[0, 1], x[1, :4])
    assert torch.equal(heads[3, 0], x[3, 4:])
    assert not heads[2, 2:].any()
    assert torch.equal(grid.to_tokens(heads, heads=2), x)
    assert torch.equal(grid.take(x, grid.first), x[[0, 3]])
    assert torch.equal(grid.spread(x[[0, 3]], grid.first, 5)[[0, 3]], x[[0, 3]])
