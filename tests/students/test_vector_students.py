"""Students on vectors: torch's own modules member by member, whatever K is; second derivatives; dropout by number."""

import pytest
import torch
from torch.func import functional_call

from pipeline.config.students import Mlp, Transformer
from pipeline.errors import InputError
from pipeline.randomness import seeded
from pipeline.students.vectors import VectorStudent, network

FEATURES, CLASSES = 12, 3
CONFIGS = {
    "mlp": Mlp(name="mlp", width=5),
    "deep mlp": Mlp(name="mlp", width=5, hidden_layers=3, dropout=0.3),
    "transformer": Transformer(name="transformer", tokens=3, width=8, layers=2, heads=2, feed_forward=10, dropout=0.3),
}
every_student = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def made(config, dtype=torch.float64):
    return VectorStudent(config, FEATURES, CLASSES, "cpu", dtype)


def vectors(*shape, seed=0):
    with seeded(seed, "vectors of a test"):
        return torch.randn(*shape, FEATURES, dtype=torch.float64)


@every_student
def test_every_member_is_torchs_own_module(config):
    student = made(config)
    theta, x = student.initial(1, [0, 5, 2]), vectors(7)
    logits, attention = student(theta, x)
    assert attention is None
    assert logits.shape == (3, 7, CLASSES)
    for member in range(3):
        module = network(config, FEATURES, CLASSES).double().train()  # train: not torch's fused inference path
        for part in module.modules():
            part.p = 0.0  # dropouts
            part.dropout = 0.0 if isinstance(getattr(part, "dropout", None), float) else getattr(part, "dropout", None)
        expected = functional_call(module, {name: tensor[member] for name, tensor in theta.items()}, x)
        torch.testing.assert_close(logits[member], expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(student.module(theta, member)(x), expected, rtol=1e-10, atol=1e-10)


@every_student
def test_a_member_is_drawn_by_seed_and_index_as_torch_draws_the_module(config):
    student = made(config, torch.float32)
    theta = student.initial(4, [3, 1])
    with seeded(4, "vector student", 1):
        expected = dict(network(config, FEATURES, CLASSES).named_parameters())
    assert theta.keys() == expected.keys()
    assert all(torch.equal(theta[name][1], expected[name]) for name in theta)
    alone = student.initial(4, [1])
    assert all(torch.equal(theta[name][1], alone[name][0]) for name in theta)
    assert not torch.equal(theta["head.weight"][0], theta["head.weight"][1])
    assert not torch.equal(student.initial(5, [1])["head.weight"], alone["head.weight"])


def test_layers_are_not_copies_of_one():
    theta = made(CONFIGS["transformer"]).initial(0, [0])
    assert not torch.equal(theta["layers.0.linear1.weight"], theta["layers.1.linear1.weight"])


@every_student
def test_shared_inputs_are_the_same_as_copies_of_them_and_members_do_not_see_each_other(config):
    student = made(config)
    theta, x = student.initial(1, [0, 1, 2]), vectors(3, 6)
    each, _ = student(theta, x)
    for member in range(3):
        alone = {name: tensor[member : member + 1] for name, tensor in theta.items()}
        torch.testing.assert_close(student(alone, x[member])[0][0], each[member], rtol=1e-12, atol=1e-12)
    shared, _ = student(theta, x[0])
    torch.testing.assert_close(shared, student(theta, x[:1].expand(3, -1, -1))[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(student.logits(theta, {"vectors": x[0], "labels": None}), shared, rtol=0, atol=0)


@every_student
def test_first_and_second_derivatives(config):
    student = made(config)
    theta = student.initial(1, [0, 1])
    names = list(theta)

    def logits(x, *parts):
        return student(dict(zip(names, parts, strict=True)), x)[0]

    ends = [vectors(3).requires_grad_(), *(theta[name].clone().requires_grad_() for name in names)]
    assert torch.autograd.gradcheck(logits, ends, fast_mode=True)
    assert torch.autograd.gradgradcheck(logits, ends, fast_mode=True, atol=1e-4)


@pytest.mark.parametrize("name", ["deep mlp", "transformer"])
def test_dropout_is_drawn_by_seed_member_and_step(name):
    student = made(CONFIGS[name])
    theta, x = student.initial(1, [4, 7]), vectors(40)
    with student.dropping(0, 3, members=[4, 7]):
        first, again = student(theta, x)[0], student(theta, x)[0]
        assert torch.equal(first, again)
        assert torch.equal(student.logits(theta, {"vectors": x}), made(CONFIGS[name])(theta, x)[0])
        student.training(True)
        assert torch.equal(student.logits(theta, {"vectors": x}), first)
        student.training(False)
    alone = {name: tensor[1:] for name, tensor in theta.items()}
    with student.dropping(0, 3, members=[7]):
        torch.testing.assert_close(student(alone, x)[0][0], first[1], rtol=1e-12, atol=1e-12)
    for other in ((0, 4), (1, 3)):
        with student.dropping(*other, members=[4, 7]):
            assert not torch.allclose(student(theta, x)[0], first)
    with student.dropping(0, 3):
        assert not torch.allclose(student(theta, x)[0], first)
    plain, _ = student(theta, x)
    assert not torch.allclose(plain, first)


def test_dropout_keeps_the_mean_and_drops_the_share():
    config = Mlp(name="mlp", width=4000, dropout=0.25)
    student = made(config)
    theta = student.initial(0, [0])
    theta["hidden.0.weight"] = torch.zeros_like(theta["hidden.0.weight"])
    theta["hidden.0.bias"] = torch.ones_like(theta["hidden.0.bias"])
    theta["head.weight"], theta["head.bias"] = torch.full((1, CLASSES, 4000), 1 / 4000), torch.zeros(1, CLASSES)
    theta = {name: tensor.double() for name, tensor in theta.items()}
    with student.dropping(0, 0):
        found, _ = student(theta, vectors(50))
    assert found.mean().item() == pytest.approx(1.0, abs=0.01)
    # Σ over 4000 kept-or-not units of variance p (1 - p) / (1 - p)² / 4000²
    assert found[0, :, 0].std().item() == pytest.approx((0.25 / 0.75 / 4000) ** 0.5, rel=0.4)


def test_vectors_that_cannot_be_cut_are_refused():
    with pytest.raises(InputError, match="tokens: 5 do not divide the 12 features"):
        VectorStudent(Transformer(name="transformer", tokens=5, width=8, heads=2), FEATURES, CLASSES, "cpu")
    with pytest.raises(ValueError, match="heads: 3 do not divide width: 8"):
        Transformer(name="transformer", width=8, heads=3)
