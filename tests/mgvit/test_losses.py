"""Losses against loops written from the equations, with gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from pipeline.mgvit import contrastive, losses, self_distillation

SEEDS = st.integers(0, 2**16)


def draw(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale


def cosines(seed: int, *shape: int) -> Tensor:
    return torch.tanh(draw(seed, *shape))


def unit(seed: int, *shape: int) -> Tensor:
    return F.normalize(draw(seed, *shape), dim=-1)


def naive_softmax(row: list[float]) -> list[float]:
    e = [math.exp(v) for v in row]
    return [v / sum(e) for v in e]


def naive_info_nce(views: list[list[float]], temperature: float) -> float:
    """Mean over the 2B views; view j's partner is view j + B (mod 2B)."""
    n = len(views)
    total = 0.0
    for j in range(n):
        similarity = [
            sum(a * b for a, b in zip(views[j], views[m], strict=True)) / temperature
            for m in range(n)
        ]
        others = sum(math.exp(similarity[m]) for m in range(n) if m != j)
        total -= math.log(math.exp(similarity[(j + n // 2) % n]) / others)
    return total / n


def naive_supcon(rows: list[list[float]], labels: list[int], temperature: float) -> float:
    n = len(rows)
    anchors = []
    for j in range(n):
        similarity = [
            sum(a * b for a, b in zip(rows[j], rows[m], strict=True)) / temperature
            for m in range(n)
        ]
        others = sum(math.exp(similarity[m]) for m in range(n) if m != j)
        positives = [m for m in range(n) if m != j and labels[m] == labels[j]]
        if positives:
            terms = [-math.log(math.exp(similarity[p]) / others) for p in positives]
            anchors.append(sum(terms) / len(terms))
    return sum(anchors) / len(anchors)


# The schedule of the teacher's temperature


def test_teacher_temperature_steps_down_every_four_epochs_then_holds() -> None:
    # linspace(0.07, 0.04, 10) has steps of 0.03 / 9
    expected = [0.07 - 0.03 / 9 * (epoch // 4) for epoch in range(40)] + [0.04] * 20
    schedule = {"warm": 0.07, "final": 0.04, "steps": 10, "hold": 4}
    given = [self_distillation.teacher_temperature(e, **schedule) for e in range(60)]
    assert given == pytest.approx(expected, abs=1e-12)


def test_teacher_temperature_takes_its_constants() -> None:
    given = [
        self_distillation.teacher_temperature(e, warm=1, final=0.5, steps=2, hold=1)
        for e in range(4)
    ]
    assert given == [1.0, 0.5, 0.5, 0.5]


@pytest.mark.parametrize(("epoch", "steps", "hold"), [(-1, 10, 4), (0, 0, 4), (0, 10, 0)])
def test_teacher_temperature_refuses_nonsense(epoch: int, steps: int, hold: int) -> None:
    with pytest.raises(ValueError, match="epoch must be"):
        self_distillation.teacher_temperature(epoch, warm=0.07, final=0.04, steps=steps, hold=hold)


# Pseudo-labels and their correction


def test_pseudo_labels_equal_the_equations() -> None:
    logits, scores = cosines(0, 5, 7), torch.tensor([0.0, 0.2, 0.499, 0.5, 0.9]).double()
    q = self_distillation.pseudo_labels(
        logits, scores, temperature=0.07, n_base=3, plc_threshold=0.5
    )
    for i in range(5):
        soft = [0.0] * 3 + naive_softmax([float(v) / 0.07 for v in logits[i, 3:]])
        w = max(0.5 - float(scores[i]), 0)
        expected = [w * (c == 3) + (1 - w) * soft[c] for c in range(7)]
        assert q[i].tolist() == pytest.approx(expected, abs=1e-12)


def test_pseudo_labels_without_correction_ignore_scores() -> None:
    logits = cosines(1, 4, 6)
    options = {"temperature": 0.05, "n_base": 2, "plc_threshold": None}
    q = self_distillation.pseudo_labels(logits, torch.zeros(4), **options)
    torch.testing.assert_close(q[:, 2:], torch.softmax(logits[:, 2:] / 0.05, dim=1))
    torch.testing.assert_close(q, self_distillation.pseudo_labels(logits, torch.ones(4), **options))


def test_pseudo_labels_carry_no_gradient_and_leave_the_logits_alone() -> None:
    logits = cosines(2, 3, 4).requires_grad_()
    before = logits.detach().clone()
    q = self_distillation.pseudo_labels(
        logits, torch.zeros(3), temperature=0.07, n_base=0, plc_threshold=0.5
    )
    assert not q.requires_grad
    assert torch.equal(logits, before)


@settings(max_examples=40)
@given(SEEDS, st.integers(0, 4), st.floats(0, 1), st.floats(0.01, 1))
def test_pseudo_labels_are_distributions_over_novel_classes(
    seed: int, n_base: int, threshold: float, temperature: float
) -> None:
    scores = torch.rand(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q = self_distillation.pseudo_labels(
        cosines(seed, 2, 6, 5),
        scores,
        temperature=temperature,
        n_base=n_base,
        plc_threshold=threshold,
    )
    assert q.shape == (2, 6, 5)
    assert bool((q >= 0).all())
    assert bool((q[..., :n_base] == 0).all())
    torch.testing.assert_close(q.sum(-1), torch.ones(2, 6, dtype=torch.float64))
    assert bool((q[..., n_base] >= (threshold - scores).clamp_min(0) - 1e-12).all())


def test_pseudo_labels_need_a_novel_class() -> None:
    with pytest.raises(ValueError, match="no novel class"):
        self_distillation.pseudo_labels(
            cosines(0, 2, 3), torch.zeros(2), temperature=0.1, n_base=3, plc_threshold=0.5
        )


# Cross-entropies


def test_soft_cross_entropy_equals_the_sum() -> None:
    logits, q = cosines(3, 4, 5), torch.softmax(draw(4, 4, 5), dim=1)
    expected = 0.0
    for i in range(4):
        p = naive_softmax([float(v) / 0.1 for v in logits[i]])
        expected -= sum(float(q[i, c]) * math.log(p[c]) for c in range(5)) / 4
    assert float(self_distillation.soft_cross_entropy(q, logits, 0.1)) == pytest.approx(expected)


def test_soft_cross_entropy_gradient_is_p_minus_q() -> None:
    logits, q = cosines(5, 3, 4).requires_grad_(), torch.softmax(draw(6, 3, 4), dim=1)
    self_distillation.soft_cross_entropy(q, logits, 0.1).backward()
    expected = (torch.softmax(logits.detach() / 0.1, dim=1) - q) / 0.1 / 3
    torch.testing.assert_close(logits.grad, expected)


def test_soft_cross_entropy_survives_excluded_classes() -> None:
    logits = cosines(7, 3, 5)
    logits[:, :2] = -torch.inf
    logits.requires_grad_()
    q = self_distillation.pseudo_labels(
        logits, torch.ones(3), temperature=0.1, n_base=2, plc_threshold=0.5
    )
    loss = self_distillation.soft_cross_entropy(q, logits, 0.1)
    loss.backward()
    torch.testing.assert_close(
        loss, self_distillation.soft_cross_entropy(q[:, 2:], logits.detach()[:, 2:], 0.1)
    )
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


def test_discovery_loss_is_the_mean_of_both_directions_with_gradient_to_students_only() -> None:
    a, b = cosines(8, 4, 6).requires_grad_(), cosines(9, 4, 6).requires_grad_()
    scores = torch.tensor([0.1, 0.4, 0.6, 1.0]).double()
    loss = self_distillation.discovery_loss(
        a, b, scores, student_temperature=0.1, teacher_temperature=0.05, n_base=2, plc_threshold=0.5
    )
    q = [
        self_distillation.pseudo_labels(
            x.detach(), scores, temperature=0.05, n_base=2, plc_threshold=0.5
        )
        for x in (a, b)
    ]
    p = [torch.softmax(x.detach() / 0.1, dim=1) for x in (a, b)]
    expected = -0.5 * ((q[0] * p[1].log()).sum(1) + (q[1] * p[0].log()).sum(1)).mean()
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()
    torch.testing.assert_close(a.grad, (p[0] - q[1]) / 0.1 / 4 / 2)
    torch.testing.assert_close(b.grad, (p[1] - q[0]) / 0.1 / 4 / 2)


def test_supervised_cross_entropy_equals_torchs_per_head() -> None:
    logits, labels = cosines(10, 3, 6, 5).requires_grad_(), torch.tensor([0, 1, 1, 4, 2, 0])
    loss = losses.supervised_cross_entropy(logits, labels, 0.1)
    expected = torch.stack([F.cross_entropy(head / 0.1, labels) for head in logits])
    torch.testing.assert_close(loss, expected)
    assert torch.autograd.gradcheck(
        lambda x: losses.supervised_cross_entropy(x, labels, 0.1), (logits,)
    )


# Mean-entropy regulariser


def test_mean_entropy_regulariser_equals_the_equation() -> None:
    p = torch.softmax(draw(11, 8, 5), dim=1)
    mean = [sum(float(p[i, c]) for i in range(8)) / 8 for c in range(5)]
    expected = math.log(5) - sum(-m * math.log(m) for m in mean)
    assert float(losses.mean_entropy_regulariser(p)) == pytest.approx(expected)


def test_mean_entropy_regulariser_is_zero_at_uniform_and_log_c_at_one_class() -> None:
    assert float(losses.mean_entropy_regulariser(torch.eye(4))) == pytest.approx(0, abs=1e-6)
    one = F.one_hot(torch.zeros(6, dtype=torch.int64), 4).double().requires_grad_()
    loss = losses.mean_entropy_regulariser(one)
    assert float(loss.detach()) == pytest.approx(math.log(4))
    loss.backward()
    assert one.grad is not None
    assert bool(torch.isfinite(one.grad).all())


def test_mean_entropy_regulariser_gradient() -> None:
    p = torch.softmax(draw(12, 2, 4, 3), dim=-1).requires_grad_()
    assert torch.autograd.gradcheck(losses.mean_entropy_regulariser, (p,))


# Contrastive terms


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_info_nce_equals_the_loops(temperature: float) -> None:
    z1, z2 = unit(13, 5, 4), unit(14, 5, 4)
    expected = naive_info_nce(torch.cat([z1, z2]).tolist(), temperature)
    assert float(contrastive.info_nce(z1, z2, temperature)) == pytest.approx(expected)


def test_info_nce_of_one_sample_is_zero_and_views_may_be_swapped() -> None:
    z1, z2 = unit(15, 6, 4), unit(16, 6, 4)
    assert float(contrastive.info_nce(z1[:1], z2[:1], 0.5)) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(contrastive.info_nce(z1, z2, 0.5), contrastive.info_nce(z2, z1, 0.5))


def test_info_nce_gradient() -> None:
    z1, z2 = unit(17, 3, 4).requires_grad_(), unit(18, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: contrastive.info_nce(a, b, 0.3), (z1, z2))


def test_supervised_contrastive_equals_the_loops_and_its_gradient() -> None:
    z, labels = unit(19, 8, 4).requires_grad_(), torch.tensor([0, 0, 1, 2, 0, 0, 1, 2])
    expected = naive_supcon(z.detach().tolist(), labels.tolist(), 0.2)
    assert float(contrastive.supervised_contrastive(z, labels, 0.2).detach()) == pytest.approx(
        expected
    )
    assert torch.autograd.gradcheck(
        lambda x: contrastive.supervised_contrastive(x, labels, 0.2), (z,)
    )


def test_supervised_contrastive_of_distinct_labels_is_info_nce() -> None:
    z1, z2 = unit(20, 4, 3), unit(21, 4, 3)
    labels = torch.arange(4).repeat(2)
    torch.testing.assert_close(
        contrastive.supervised_contrastive(torch.cat([z1, z2]), labels, 0.3),
        contrastive.info_nce(z1, z2, 0.3),
    )


def test_supervised_contrastive_leaves_anchors_without_positives_out() -> None:
    z, labels = unit(22, 5, 3), torch.tensor([0, 1, 0, 2, 0])
    expected = naive_supcon(z.tolist(), labels.tolist(), 0.3)
    assert float(contrastive.supervised_contrastive(z, labels, 0.3)) == pytest.approx(expected)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_supervised_contrastive_without_pairs_is_zero_with_zero_gradient(n: int) -> None:
    z = unit(23, n, 3).requires_grad_()
    loss = contrastive.supervised_contrastive(z, torch.arange(n), 0.3)
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(z.grad, torch.zeros_like(z))


# The whole objective

OPTIONS = {
    "n_base": 2,
    "teacher_temperature": 0.06,
    "student_temperature": 0.1,
    "contrast_temperature": 0.9,
    "contrast_temperature_labelled": 0.08,
    "lambda_": 0.35,
    "mu": 3.0,
    "plc_threshold": 0.5,
}


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    labels = torch.tensor([-1, 0, -1, 1, 0, -1])
    scores = torch.tensor([0.1, 0.3, 0.7, 0.0, 0.2, 0.45]).double()
    return cosines(seed, 3, 12, 5), unit(seed + 1, 12, 4), scores, labels


def naive_total(
    logits: Tensor, z: Tensor, scores: Tensor, labels: Tensor
) -> tuple[float, list[float]]:
    """The objective by loops, with `OPTIONS`; also L_cls_u + mu L_reg of each head."""
    n = len(labels)
    unlabelled = [i for i in range(n) if labels[i] < 0]
    labelled = [i for i in range(n) if labels[i] >= 0]
    per_head, cls_l = [], []
    for head in logits.tolist():
        p = [naive_softmax([v / 0.1 for v in row]) for row in head]
        cls = 0.0
        for i in unlabelled:
            for teacher, student in ((i, i + n), (i + n, i)):
                q = [0.0, 0.0, *naive_softmax([v / 0.06 for v in head[teacher][2:]])]
                w = max(0.5 - float(scores[i]), 0)
                q = [(1 - w) * v + w * (c == 2) for c, v in enumerate(q)]
                cls -= sum(q[c] * math.log(p[student][c]) for c in range(5))
        cls /= 2 * len(unlabelled)
        rows = [*unlabelled, *(i + n for i in unlabelled)]
        mean = [sum(p[r][c] for r in rows) / len(rows) for c in range(5)]
        per_head.append(cls + 3.0 * (math.log(5) + sum(m * math.log(m) for m in mean)))
        terms = [-math.log(p[r][int(labels[i])]) for i in labelled for r in (i, i + n)]
        cls_l.append(sum(terms) / len(terms) if terms else 0.0)
    rep = naive_info_nce(z.tolist(), 0.9)
    rows = [*labelled, *(i + n for i in labelled)]
    rep_l = (
        naive_supcon([z[r].tolist() for r in rows], [int(labels[r % n]) for r in rows], 0.08)
        if rows
        else 0.0
    )
    heads = len(per_head)
    total = 0.35 * (rep_l + sum(cls_l) / heads) + 0.65 * (rep + sum(per_head) / heads)
    return total, per_head


def test_total_loss_equals_the_loops() -> None:
    logits, z, scores, labels = batch()
    terms = losses.total_loss(logits, z, scores, labels, **OPTIONS)
    total, per_head = naive_total(logits, z, scores, labels)
    assert float(terms.total) == pytest.approx(total)
    assert terms.per_head.tolist() == pytest.approx(per_head)
    labelled = terms.rep_labelled + terms.cls_labelled
    novel = terms.rep + terms.cls + 3 * terms.reg
    assert float(0.35 * labelled + 0.65 * novel) == pytest.approx(total)


def test_total_loss_gradient() -> None:
    # The pseudo-labels are constants of the gradient, so a finite difference of the whole moves
    # them too: compare with the composition of the separate terms instead.
    logits, z, scores, labels = batch(5)
    logits.requires_grad_()
    z.requires_grad_()
    got = torch.autograd.grad(
        losses.total_loss(logits, z, scores, labels, **OPTIONS).total, [logits, z]
    )
    u = torch.tensor([0, 2, 5])
    k = torch.tensor([1, 3, 4, 7, 9, 10])
    y = labels.repeat(2)[k]
    total = 0.65 * contrastive.info_nce(z[:6], z[6:], 0.9)
    total = total + 0.35 * contrastive.supervised_contrastive(z[k], y, 0.08)
    for head in logits:
        p = [torch.softmax(head[u + shift] / 0.1, dim=1) for shift in (0, 6)]
        q = [
            self_distillation.pseudo_labels(
                head[u + shift], scores[u], temperature=0.06, n_base=2, plc_threshold=0.5
            )
            for shift in (0, 6)
        ]
        cls = -((q[0] * p[1].log()).sum(1) + (q[1] * p[0].log()).sum(1)).mean() / 2
        mean = torch.cat(p).mean(0)
        reg = math.log(5) + (mean * mean.log()).sum()
        known = F.cross_entropy(head[k] / 0.1, y)
        total = total + (0.65 * (cls + 3 * reg) + 0.35 * known) / 3
    for a, b in zip(got, torch.autograd.grad(total, [logits, z]), strict=True):
        torch.testing.assert_close(a, b)


def test_total_loss_without_labelled_samples_keeps_the_factor() -> None:
    logits, z, scores, _ = batch(7)
    none = torch.full((6,), losses.UNLABELLED)
    terms = losses.total_loss(logits, z, scores, none, **OPTIONS)
    assert float(terms.rep_labelled) == 0
    assert float(terms.cls_labelled) == 0
    assert float(terms.total) == pytest.approx(
        0.65 * float(terms.rep + terms.cls + 3 * terms.reg), rel=1e-12
    )
    total, _ = naive_total(logits, z, scores, none)
    assert float(terms.total) == pytest.approx(total)


def test_views_are_summed_if_asked() -> None:
    mean, summed = (
        losses.total_loss(*batch(5), **OPTIONS, views_summed=flag) for flag in (False, True)
    )
    labelled, rest = OPTIONS["lambda_"], 1 - OPTIONS["lambda_"]
    more = labelled * mean.cls_labelled + rest * mean.cls
    assert more > 0.1
    torch.testing.assert_close(summed.total - mean.total, more)
    torch.testing.assert_close(summed.cls, 2 * mean.cls)
    torch.testing.assert_close(summed.cls_labelled, 2 * mean.cls_labelled)
    torch.testing.assert_close(summed.reg, mean.reg)


def test_total_loss_of_one_head_takes_two_axes() -> None:
    logits, z, scores, labels = batch(9)
    one = losses.total_loss(logits[0], z, scores, labels, **OPTIONS)
    same = losses.total_loss(logits[:1], z, scores, labels, **OPTIONS)
    torch.testing.assert_close(one.total, same.total)
    assert one.per_head.shape == (1,)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("teacher_temperature", 0.03),
        ("student_temperature", 0.2),
        ("contrast_temperature", 0.1),
        ("contrast_temperature_labelled", 0.5),
        ("lambda_", 0.1),
        ("mu", 1.0),
        ("plc_threshold", None),
        ("n_base", 3),
    ],
)
def test_every_option_of_the_total_loss_changes_it(name: str, value: float | None) -> None:
    before = losses.total_loss(*batch(11), **OPTIONS).total
    after = losses.total_loss(*batch(11), **{**OPTIONS, name: value}).total
    assert abs(float(before - after)) > 1e-4


@settings(max_examples=25)
@given(SEEDS, st.permutations(range(6)))
def test_total_loss_does_not_depend_on_the_order_of_the_batch(seed: int, order: list[int]) -> None:
    logits, z, scores, labels = batch(seed)
    twice = torch.tensor([*order, *(i + 6 for i in order)])
    shuffled = losses.total_loss(
        logits[:, twice], z[twice], scores[order], labels[order], **OPTIONS
    )
    torch.testing.assert_close(
        shuffled.total, losses.total_loss(logits, z, scores, labels, **OPTIONS).total
    )


def test_half_precision_inputs_are_computed_in_float32_and_outside_autocast() -> None:
    logits, z, scores, labels = batch(13)
    half = (logits.bfloat16(), z.bfloat16(), scores.float(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = losses.total_loss(*half, **OPTIONS).total
    full = losses.total_loss(half[0].float(), half[1].float(), *half[2:], **OPTIONS).total
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, full)


def test_bad_batches_are_refused() -> None:
    logits, z, scores, labels = batch()
    with pytest.raises(ValueError, match="no unlabelled"):
        losses.total_loss(logits, z, scores, torch.zeros(6, dtype=torch.int64), **OPTIONS)
    with pytest.raises(ValueError, match="base classes"):
        losses.total_loss(logits, z, scores, labels.masked_fill(labels == 1, 2), **OPTIONS)
    with pytest.raises(ValueError, match="6 labels"):
        losses.total_loss(logits[:, :6], z, scores, labels, **OPTIONS)
    with pytest.raises(ValueError, match="novel class"):
        losses.total_loss(logits, z, scores, labels, **{**OPTIONS, "n_base": 5})
