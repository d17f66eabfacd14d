"""TEMI against the values of its specification."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.peers.temi import follow, pair_weights, pointwise, temi_loss

STUDENT = torch.tensor([[[0.7, 0.3], [0.4, 0.6]]])
TEACHER = torch.tensor([[[0.6, 0.4], [0.2, 0.8]]])
PRIOR = torch.full((1, 2), 0.5)


def test_pointwise_values_of_the_specification() -> None:
    got = pointwise(STUDENT, TEACHER, PRIOR, 0.6)
    assert got[0].tolist() == pytest.approx([-0.558986, -0.546389], abs=1e-6)


def test_weights_are_the_agreement_of_the_teachers_over_heads() -> None:
    first = torch.cat([STUDENT, TEACHER])
    second = torch.cat([TEACHER, TEACHER])
    expected = [(0.54 + 0.52) / 2, (0.56 + 0.68) / 2]
    assert pair_weights(first, second).tolist() == pytest.approx(expected)


def test_each_student_learns_from_the_teacher_of_the_other_image() -> None:
    student, teacher = torch.stack([STUDENT, TEACHER]), torch.stack([TEACHER, STUDENT.flip(-1)])
    weight = pair_weights(teacher[0], teacher[1])
    there = pointwise(STUDENT, STUDENT.flip(-1), PRIOR, 0.6)
    back = pointwise(TEACHER, TEACHER, PRIOR, 0.6)
    expected = (weight * (there + back) / 2).mean(-1)
    torch.testing.assert_close(temi_loss(student, teacher, PRIOR, 0.6), expected)


def test_the_teacher_carries_no_gradient() -> None:
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    both = torch.stack([student, student]), torch.stack([teacher, teacher])
    temi_loss(*both, PRIOR, 0.6).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_the_teacher_follows_the_student_slowly() -> None:
    student, teacher = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(student.weight, 1.0)
    nn.init.constant_(teacher.weight, 0.0)
    follow(teacher, student, 0.9)
    assert float(teacher.weight.detach()) == pytest.approx(0.1)
