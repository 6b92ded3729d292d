"""oneDNN's products equal torch's, with their gradients."""

import pytest
import torch
from torch import nn

from pipeline.students.linear import OneDnnLinear, use_onednn


@pytest.mark.parametrize("shape", [(5, 7), (2, 65, 7), (1, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_equal_to_torch(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(7, 11, bias=bias)
    fast = nn.Linear(7, 11, bias=bias)
    fast.load_state_dict(plain.state_dict())
    use_onednn(fast)
    assert type(fast) is OneDnnLinear
    results = []
    for layer in (plain, fast):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1), requires_grad=True)
        y = layer(x.transpose(0, -2).contiguous().transpose(0, -2) if len(shape) == 3 else x)
        y.square().sum().backward()
        results.append([y.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_other_types_take_the_usual_way() -> None:
    layer = nn.Linear(3, 2).double()
    use_onednn(layer)
    x = torch.randn(4, 3, dtype=torch.float64)
    assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))


def test_autocast_takes_the_usual_way() -> None:
    layer = nn.Linear(3, 2)
    use_onednn(layer)
    x = torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
        assert layer(x).dtype == torch.bfloat16


def test_subclasses_are_left_alone() -> None:
    class Special(nn.Linear):
        pass

    special = Special(2, 2)
    use_onednn(special)
    assert type(special) is Special
