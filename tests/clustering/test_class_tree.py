"""The tree of fine clusters, against Ward's method by SciPy, and what choices make of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage

from pipeline.clustering.class_choices import Choice, Merge, ShapedClasses, Split, apply_choices
from pipeline.clustering.class_tree import FEWEST_FINE, ClassTree, grow_tree

N_CLASSES = 5


def regions(seed: int = 0, each: int = 30) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Class 0 and four defect classes, each of two clusters."""
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.arange(N_CLASSES), each)
    centres = rng.normal(scale=8, size=(N_CLASSES, 2, 6))
    x = centres[classes, np.arange(len(classes)) % 2] + rng.normal(size=(len(classes), 6))
    return x.astype(np.float32), classes


@pytest.fixture(scope="module")
def tree() -> ClassTree:
    return grow_tree(*regions(), N_CLASSES)


def test_classes_are_nodes(tree: ClassTree) -> None:
    """Each node is of one class, or of whole ones; the normal class comes last, undivided."""
    assert len(tree.owners) == FEWEST_FINE
    assert (tree.owners == 0).sum() == 1
    assert tree.sizes.tolist() == [30, *tree.sizes[1:].tolist()]
    assert tree.sizes.sum() == 150
    sets = [tree.leaves(len(tree.owners) + i) for i in range(len(tree.nodes))]
    for leaves in sets:
        owners = set(tree.owners[sorted(leaves)].tolist())
        whole = set(np.flatnonzero(np.isin(tree.owners, sorted(owners))).tolist())
        assert len(owners) == 1 or leaves == whole
    assert sets[-1] == set(range(len(tree.owners)))
    assert 0 in tree.nodes[-1]


def test_every_region_is_in_a_fine_cluster_of_its_class(tree: ClassTree) -> None:
    x, classes = regions()
    nearest = tree.nearest(x)
    assert (tree.owners[nearest] == np.arange(N_CLASSES)).all()
    own = nearest[np.arange(len(x)), classes]
    assert np.bincount(own, minlength=len(tree.owners)).tolist() == tree.sizes.tolist()


def test_heights_are_those_of_ward() -> None:
    x, _ = regions()
    classes = np.ones(len(x), np.int64)
    tree = grow_tree(x, classes, 2)
    own = np.flatnonzero(tree.owners == 1)
    inside = [h for i, h in enumerate(tree.heights) if 0 not in tree.leaves(len(tree.owners) + i)]
    assert len(inside) == len(own) - 1
    expected = linkage(x.astype(np.float64), "ward")[-len(inside) :, 2]
    np.testing.assert_allclose(inside, expected, rtol=0.02)  # some regions lie nearer to others


def test_empty_classes_and_equal_regions_have_one_fine_cluster() -> None:
    tree = grow_tree(np.ones((9, 3)), np.full(9, 2), 4)
    assert tree.owners.tolist() == [0, 1, 2, 3]
    assert tree.sizes.tolist() == [0, 0, 9, 0]
    assert apply_choices(tree, []).is_unchanged
    assert grow_tree(np.zeros((0, 1)), [], 1).nodes == []


def shape(tree: ClassTree, *choices: Choice) -> dict[int, set[int]]:
    members = apply_choices(tree, choices).members
    return {int(k): set(np.flatnonzero(members == k).tolist()) for k in np.unique(members)}


def test_split_undoes_a_merge_and_gives_its_number_back(tree: ClassTree) -> None:
    before = shape(tree)
    merged = shape(tree, Merge((2, 4)))
    assert merged == {0: before[0], 1: before[1], 2: before[2] | before[4], 3: before[3]}
    assert shape(tree, Merge((4, 2)))[4] == merged[2]
    assert shape(tree, Merge((2, 4)), Split(2)) == before
    assert shape(tree, Merge((3, 0)))[0] == before[0] | before[3]
    assert shape(tree, Merge((0, 3)), Split(0)) == before


def test_a_new_class_gets_a_new_number(tree: ClassTree) -> None:
    """Not one that a name may still wait for."""
    after = shape(tree, Merge((1, 3)), Split(2))
    assert sorted(after) == [0, 1, 2, 4, N_CLASSES]
    assert after[2] | after[N_CLASSES] == shape(tree)[2]
    own = {k: tree.sizes[sorted(leaves)].sum() for k, leaves in after.items()}
    assert own[2] >= own[N_CLASSES]
    assert apply_choices(tree, [Merge((1, 3)), Split(2)]).moved == {3: 1}


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        ([Merge((2,))], "two or more"),
        ([Merge((2, 2))], "two or more"),
        ([Merge((2, 9))], "no class 9: the classes are 0, 1, 2, 3, 4"),
        ([Merge((2, 3)), Split(3)], "no class 3: the classes are 0, 1, 2, 4"),
        ([Split(0)], "cannot be split"),
    ],
)
def test_impossible_choices(tree: ClassTree, choices: list[Choice], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        apply_choices(tree, choices)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_numbers_and_probabilities_of_any_choices(steps: list[tuple[bool, int, int]]) -> None:
    tree, (x, _) = TREE, regions()
    choices: list[Choice] = []
    for is_merge, a, b in steps:
        choice = Merge((a, b)) if is_merge else Split(a)
        try:
            shaped = apply_choices(tree, [*choices, choice])
        except ValueError:
            continue
        before = apply_choices(tree, choices)
        choices.append(choice)
        changed = shaped.members != before.members
        if is_merge:
            assert set(shaped.members[changed]) <= {a, b}
        else:
            (number,) = set(shaped.members[changed])
            assert number not in before.members  # no class got what it did not have
    shaped = apply_choices(tree, choices)
    p = np.random.default_rng(0).dirichlet(np.ones(N_CLASSES), len(x))
    after = shaped.probabilities(p, x)
    assert after.shape == (len(x), shaped.n_classes)
    np.testing.assert_allclose(after.sum(1), 1)
    assert not after[:, sorted(shaped.moved)].any()
    sums = shaped.sums()
    if sums is not None:
        np.testing.assert_allclose(after, p @ sums)


TREE = grow_tree(*regions(), N_CLASSES)


def test_a_split_class_goes_to_the_nearer_part(tree: ClassTree) -> None:
    x, classes = regions()
    shaped = apply_choices(tree, [Split(3)])
    after = shaped.probabilities(np.eye(N_CLASSES)[classes], x).argmax(1)
    assert (after[classes != 3] == classes[classes != 3]).all()
    first = np.arange(len(x))[classes == 3] % 2  # the two clusters that the class was drawn from
    assert set(zip(first, after[classes == 3], strict=True)) in (
        {(0, 3), (1, N_CLASSES)},
        {(0, N_CLASSES), (1, 3)},
    )
    assert shaped.sums() is None


def test_without_choices_probabilities_are_the_same_object(tree: ClassTree) -> None:
    x, classes = regions()
    p = np.eye(N_CLASSES)[classes]
    shaped: ShapedClasses = apply_choices(tree, [])
    assert shaped.probabilities(p, x) is p
