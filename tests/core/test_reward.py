"""The implicit reward: its unit, its sign, and that a mean is a mean."""

from __future__ import annotations

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contrapose.core.reward import implicit_reward, mean_square

errors = st.lists(st.floats(0, 100, width=32), min_size=4, max_size=4).map(lambda e: torch.tensor(e).view(2, 2))


def test_mean_square_is_the_mean_over_elements_and_not_their_sum():
    x = torch.full((2, 3, 5, 7), 2.0)
    assert mean_square(x).tolist() == [4.0, 4.0]


def test_mean_square_keeps_samples_apart():
    x = torch.stack([torch.full((3,), 1.0), torch.full((3,), 3.0)])
    assert mean_square(x).tolist() == [1.0, 9.0]


def test_mean_square_of_half_precision_is_computed_in_float32():
    small = torch.full((1, 1000), 1e-4, dtype=torch.float16)  # its square is below float16's smallest number
    assert mean_square(small).dtype == torch.float32
    assert mean_square(small).item() == pytest.approx(1e-8, rel=1e-2)


def test_beta_multiplies_half_the_error_difference():
    reward = implicit_reward(5000.0, torch.tensor([[0.10]]), torch.tensor([[0.11]]))
    assert reward.item() == pytest.approx(2500 * 0.01)


@given(trainee=errors, reference=errors, beta=st.floats(1, 1e4))
def test_reward_changes_sign_when_trainee_and_reference_change_places(trainee, reference, beta):
    torch.testing.assert_close(implicit_reward(beta, trainee, reference), -implicit_reward(beta, reference, trainee))


@given(both=errors)
def test_reward_is_zero_where_trainee_is_the_reference(both):
    assert implicit_reward(5000.0, both, both).abs().max() == 0


def test_without_reference_the_reward_is_the_negative_error():
    assert implicit_reward(2.0, torch.tensor([[0.3]]), None).item() == pytest.approx(-0.3)


def test_shapes_in_annotations_are_checked_under_pytest():
    pytest.importorskip("beartype")
    with pytest.raises(jaxtyping.TypeCheckError):
        implicit_reward(1.0, torch.zeros(2, 2), torch.zeros(3, 2))
