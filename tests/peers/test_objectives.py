"""The whole objective of a batch, put together anew from terms that have oracles of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.mgvit.contrastive import info_nce
from pipeline.peers import scan, uno
from pipeline.peers.amend import AMEND, Bank, Extra, batch_neighbour_loss, prototype_spread
from pipeline.peers.layers import LinearHeads
from pipeline.peers.protogcd import ProtoGCD, separation, sharpen
from pipeline.peers.self_distillation import Network, PrototypeMethod, Settings, objective
from pipeline.peers.simgcd import SimGCD
from pipeline.peers.training import Batch, Budget, training_set
from tests.peers.blobs import blobs

SETTINGS = Settings(contrast_temperature=0.5)
DATA, _ = blobs(3, 24, noise=0.3)
SAMPLES = training_set(DATA, use_base=True)
ROWS = torch.arange(0, 40, 3)
BATCH = Batch(ROWS, SAMPLES.views[:, ROWS], SAMPLES.labels[ROWS], 0.3)


def network() -> Network:
    return Network(16, 5, 8, torch.Generator().manual_seed(0))


def terms(temperature: float) -> tuple[Network, Tensor, Tensor, Tensor]:
    """Return the network, and cosines, embeddings and pseudo-labels of the batch."""
    net = network()
    with torch.no_grad():
        logits, z = net(BATCH.views)
    return net, logits, z, torch.softmax(logits / temperature, -1)


def loss_of(method: PrototypeMethod, net: Network) -> float:
    loss = method.loss(net, SAMPLES, torch.Generator().manual_seed(1))
    return float(loss(BATCH).detach())


def test_simgcd() -> None:
    """At 30 % of the epochs the teacher's temperature has come down."""
    net, logits, z, targets = terms(SETTINGS.teacher_end)
    contrast = info_nce(z[0], z[1], 0.5)
    expected = objective(logits, targets, z, BATCH.labels, contrast, SETTINGS)
    assert loss_of(SimGCD(SETTINGS), net) == pytest.approx(float(expected))


def test_protogcd() -> None:
    """After 30 % of the epochs 60 % of the pseudo-labels are one-hot; prototypes part."""
    net, logits, z, soft = terms(0.05)
    contrast = info_nce(z[0], z[1], 0.5)
    targets = sharpen(soft, 0.6)
    expected = objective(logits, targets, z, BATCH.labels, contrast, SETTINGS)
    expected = expected + 0.1 * separation(net.prototypes.directions().detach(), 0.1)
    assert loss_of(ProtoGCD(SETTINGS), net) == pytest.approx(float(expected))


def test_amend() -> None:
    net, logits, z, targets = terms(SETTINGS.teacher_end)
    extra = Extra(temperature=0.5, spread_weight=0.7)
    rows = torch.randperm(len(SAMPLES.plain), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        bank = Bank(net(SAMPLES.views[0, rows])[1])
    bank.owners = rows
    contrast = batch_neighbour_loss(z, ROWS, bank, extra)
    expected = objective(logits, targets, z, BATCH.labels, contrast, SETTINGS)
    expected = expected + 0.7 * prototype_spread(net.prototypes.directions().detach())
    assert loss_of(AMEND(SETTINGS, extra=extra), net) == pytest.approx(float(expected))


def test_amend_divides_all_cosines_by_its_temperature() -> None:
    """A bank and a batch scaled by 1 / t are the same as the temperature t."""
    z = torch.nn.functional.normalize(terms(1.0)[2][:, :6], dim=-1)
    bank = Bank(torch.nn.functional.normalize(torch.eye(9, z.shape[-1]) + z[0, :1], dim=1))
    bank.owners = bank.owners + 100
    got = batch_neighbour_loss(z, torch.arange(6), bank, Extra(temperature=0.25))
    flat = z.flatten(0, 1)
    near, far = bank.neighbours(flat, torch.arange(6).repeat(2), Extra())
    losses = []
    for i, anchor in enumerate(flat):
        others = flat[[j for j in range(12) if j % 6 != i % 6]]
        sets = [flat[(i + 6) % 12][None], bank.z[near[i]], bank.z[far[i]], others]
        cosines = [4 * (y @ anchor) for y in sets]
        log_s = [c - torch.cat(cosines).logsumexp(0) for c in cosines[:3]]
        losses.append(-(log_s[0].sum() + log_s[1].sum() + 0.1 * log_s[2].sum()) / (1 + 4 + 2))
    assert float(got) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


def test_scan_chooses_its_head_with_an_entropy_of_weight_1_not_eta() -> None:
    """Head 0 has unequal clusters that neighbours share, head 1 equal ones that they do not."""
    data, _ = blobs(2, 8, n_base_classes=0)
    samples = training_set(data, use_base=False)
    near = np.stack([np.arange(8), np.arange(8) ^ 1], 1)
    shared = 9 * torch.eye(2)[[0, 0, 0, 0, 0, 0, 1, 1]]
    equal = 1.5 * torch.eye(2)[[0, 0, 0, 1, 0, 1, 1, 1]]

    class Fixed(LinearHeads):
        def forward(self, x: Tensor) -> Tensor:
            del x
            return torch.stack([shared, equal])

    heads = Fixed(16, 2, 2, torch.Generator().manual_seed(0))
    assert scan.SCAN()._best(heads, samples, near) == 0


def test_uno_keeps_the_head_with_the_lowest_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    method = uno.UNO(uno.Settings(hidden=8, out=4), Budget("sgd", 0.1, 100, 0, least_steps=5))
    less = replace(DATA, base_tokens=None, base_view_tokens=None, base_labels=None)
    samples = training_set(less, use_base=False)
    net = uno.Network(16, 0, 3, method.settings, torch.Generator().manual_seed(0))
    real = method._losses

    def shifted(*args: object) -> Tensor:
        return real(*args) + torch.tensor([3.0, 1, 0, 2])  # type: ignore[arg-type]

    monkeypatch.setattr(uno.UNO, "_losses", lambda self, *args: shifted(*args))
    assert method._train(net, samples, np.random.default_rng(0)) == 2
