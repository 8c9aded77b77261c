"""The permutation that gives every record the inputs of another."""

import pytest

from dllm.inference.floors import derangement


@pytest.mark.parametrize("n", [2, 3, 4, 7, 100])
@pytest.mark.parametrize("seed", range(5))
def test_derangement_moves_everything(n, seed):
    order = derangement(n, seed)
    assert sorted(order) == list(range(n))
    assert all(other != index for index, other in enumerate(order))


def test_derangement_is_fixed_by_its_seed():
    assert derangement(50) == derangement(50, seed=0)
    assert derangement(50, seed=1) != derangement(50, seed=2)


@pytest.mark.parametrize("n", [0, 1])
def test_one_record_has_no_other(n):
    with pytest.raises(ValueError, match="at least 2 records"):
        derangement(n)
