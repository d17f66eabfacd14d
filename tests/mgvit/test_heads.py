"""Heads and projector against torch's own weight_norm and plain linear layers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.mgvit.heads import MultiHead, Projector, parameter_groups


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weight_normed(directions: torch.Tensor) -> nn.Module:
    """One head the plain way: a bias-free linear layer under weight_norm, gain 1 frozen."""
    layer = nn.Linear(directions.shape[1], directions.shape[0], bias=False).double()
    layer = nn.utils.parametrizations.weight_norm(layer)
    with torch.no_grad():
        layer.parametrizations.weight.original0.fill_(1)
        layer.parametrizations.weight.original1.copy_(directions)
    layer.parametrizations.weight.original0.requires_grad_(False)
    return layer


def test_multi_head_equals_weight_norm_with_gain_one_and_so_do_its_gradients() -> None:
    head = MultiHead(6, 5, heads=3, generator=seeded()).double()
    plain = [weight_normed(w) for w in head.weight.detach()]
    token = torch.randn(4, 6, generator=seeded(1), dtype=torch.float64)
    up = torch.randn(3, 4, 5, generator=seeded(2), dtype=torch.float64)
    x, y = token.clone().requires_grad_(), token.clone().requires_grad_()
    logits = head(x)
    expected = torch.stack([layer(F.normalize(y, dim=-1)) for layer in plain])
    torch.testing.assert_close(logits, expected)
    (logits * up).sum().backward()
    (expected * up).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    directions = [layer.parametrizations.weight.original1.grad for layer in plain]
    torch.testing.assert_close(head.weight.grad, torch.stack(directions))


def test_logits_are_cosines_of_token_and_rows() -> None:
    head = MultiHead(4, 3, heads=2, generator=seeded())
    token = torch.randn(5, 4, generator=seeded(1)) * 7
    logits = head(token)
    assert logits.shape == (2, 5, 3)
    for h in range(2):
        for b in range(5):
            for c in range(3):
                row = head.weight[h, c].detach()
                cosine = float(row @ token[b] / (row.norm() * token[b].norm()))
                assert float(logits[h, b, c].detach()) == pytest.approx(cosine, abs=1e-6)


def test_norm_of_the_directions_divides_the_gradient_and_leaves_the_logits() -> None:
    head, longer = (MultiHead(4, 3, heads=4, generator=seeded()) for _ in range(2))
    with torch.no_grad():
        longer.weight.mul_(10)
    token = torch.randn(5, 4, generator=seeded(1))
    torch.testing.assert_close(head(token), longer(token))
    for each in (head, longer):
        each(token).square().sum().backward()
    assert head.weight.grad is not None
    torch.testing.assert_close(longer.weight.grad, head.weight.grad / 10)


def test_directions_start_as_torchs_linear_layers_do() -> None:
    weight = MultiHead(64, 100, heads=4, generator=seeded()).weight.detach()
    reference = nn.init.kaiming_uniform_(
        torch.empty(40_000, 64), a=math.sqrt(5), generator=seeded(1)
    )
    assert float(weight.abs().max()) <= 1 / 8
    assert float(weight.abs().max()) == pytest.approx(float(reference.abs().max()), rel=1e-2)
    assert float(weight.std()) == pytest.approx(float(reference.std()), rel=2e-2)
    assert not torch.equal(weight[0], weight[1])


def test_multi_head_stays_in_float32_under_autocast() -> None:
    head = MultiHead(8, 3, heads=4, generator=seeded())
    token = torch.randn(5, 8, generator=seeded(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(token)
    assert torch.equal(logits, head(token))
    assert head(token.bfloat16()).dtype == torch.float32


def test_zero_token_gives_zero_logits() -> None:
    assert torch.equal(
        MultiHead(4, 3, heads=4, generator=seeded())(torch.zeros(2, 4)), torch.zeros(4, 2, 3)
    )


@pytest.mark.parametrize(("dim", "n_classes", "heads"), [(0, 2, 4), (3, 0, 4), (3, 2, 0)])
def test_multi_head_refuses_empty_axes(dim: int, n_classes: int, heads: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        MultiHead(dim, n_classes, heads=heads, generator=seeded())


def test_projector_is_the_mlp_written_out() -> None:
    projector = Projector(6, hidden=8, out=5, generator=seeded()).double()
    token = torch.randn(3, 6, generator=seeded(1), dtype=torch.float64)
    w = dict(projector.named_parameters())
    x = F.gelu(token @ w["layers.0.weight"].T + w["layers.0.bias"])
    x = F.gelu(x @ w["layers.2.weight"].T + w["layers.2.bias"])
    x = x @ w["layers.4.weight"].T + w["layers.4.bias"]
    torch.testing.assert_close(projector(token), x / x.norm(dim=1, keepdim=True))


def test_projector_sizes_and_initial_weights() -> None:
    projector = Projector(32, generator=seeded())
    shapes = [tuple(p.shape) for p in projector.parameters()]
    assert shapes == [(2048, 32), (2048,), (2048, 2048), (2048,), (256, 2048), (256,)]
    for name, parameter in projector.named_parameters():
        if name.endswith("bias"):
            assert not bool(parameter.any())
        else:
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.02)
    norms = projector(torch.randn(4, 32, generator=seeded(1))).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(4))


def test_weights_depend_on_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first = [
        MultiHead(4, 3, heads=4, generator=seeded(5)),
        Projector(4, hidden=8, generator=seeded(5)),
    ]
    again = [
        MultiHead(4, 3, heads=4, generator=seeded(5)),
        Projector(4, hidden=8, generator=seeded(5)),
    ]
    other = [
        MultiHead(4, 3, heads=4, generator=seeded(6)),
        Projector(4, hidden=8, generator=seeded(6)),
    ]
    assert torch.equal(torch.get_rng_state(), before)
    for a, b, c in zip(first, again, other, strict=True):
        p, q, r = (next(iter(m.parameters())) for m in (a, b, c))
        assert torch.equal(p, q)
        assert not torch.equal(p, r)


def test_parameter_groups_decay_matrices_only() -> None:
    shared, frozen = nn.Linear(3, 2), nn.Linear(2, 2)
    frozen.requires_grad_(False)
    norm, head = nn.LayerNorm(4), MultiHead(4, 3, heads=4, generator=seeded())
    groups = parameter_groups([shared, nn.Sequential(shared, norm), frozen, head], weight_decay=0.5)
    assert [g["weight_decay"] for g in groups] == [0.5, 0.0]
    assert {id(p) for p in groups[0]["params"]} == {id(shared.weight), id(head.weight)}
    assert {id(p) for p in groups[1]["params"]} == {
        id(shared.bias),
        id(norm.weight),
        id(norm.bias),
    }
    assert len(groups[0]["params"]) == 2
    torch.optim.SGD(groups, lr=0.1)


def test_parameter_groups_call_a_wide_bias_a_bias() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(2, 2))

    groups = parameter_groups([Wide()], weight_decay=0.5)
    assert [g["weight_decay"] for g in groups] == [0.0]
