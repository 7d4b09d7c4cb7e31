"""Guidance as arithmetic: shares of policies by strength, noise level and row, and how they are combined."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from contrapose.core.guidance import GUIDANCES, PGD, CHATSGuidance, ContrastivePGD, DiffusionNPO, combine
from contrapose.errors import UserError

POLICIES = ("base", "positive", "negative")


@pytest.fixture
def told() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return {policy: torch.randn(3, 2, 4, 4, generator=random) for policy in POLICIES}


def test_pgd(told: dict[str, torch.Tensor]) -> None:
    expected = told["base"] + 3.0 * (told["positive"] - told["base"])
    torch.testing.assert_close(combine(told, PGD(3.0).shares(0.5)), expected)


def test_contrastive_pgd(told: dict[str, torch.Tensor]) -> None:
    expected = told["base"] + 3.0 * (told["positive"] - told["negative"])
    torch.testing.assert_close(combine(told, ContrastivePGD(3.0).shares(0.5)), expected)


@pytest.mark.parametrize("guidance", [DiffusionNPO(), CHATSGuidance()], ids=["npo", "chats"])
def test_rows_of_their_own(guidance: DiffusionNPO) -> None:
    assert guidance.shares(0.5, conditional=True) == {"positive": 1.0}
    assert guidance.shares(0.5, conditional=False) == {"negative": 1.0}


def test_half_way_to_the_negative() -> None:
    assert DiffusionNPO(0.25).shares(0.5, conditional=False) == {"base": 0.75, "negative": 0.25}


@pytest.mark.parametrize("name", GUIDANCES)
def test_shares_are_of_one_prediction(name: str) -> None:
    """What all policies agree on is left as it is, whatever the strength."""
    for scale in (-2.0, 0.0, 0.3, 1.0, 7.5):
        for conditional in (True, False):
            assert math.isclose(sum(GUIDANCES[name](scale).shares(0.4, conditional).values()), 1.0)


@pytest.mark.parametrize("name", GUIDANCES)
def test_off_asks_for_the_base_alone(name: str, told: dict[str, torch.Tensor]) -> None:
    shares = GUIDANCES[name](0.0, rescale=0.5).shares(0.5)
    assert shares == {"base": 1.0}
    assert combine(told, shares, 0.5) is told["base"]


def test_one_asks_for_the_positive_alone(told: dict[str, torch.Tensor]) -> None:
    assert combine(told, PGD(1.0).shares(0.5)) is told["positive"]


@pytest.mark.parametrize(
    ("schedule", "at"),
    [("constant", (2, 2, 2, 2)), ("linear", (0, 0.5, 1, 2)), ("cosine", (0, 1 - math.sqrt(0.5), 1, 2))],
)
def test_schedules(schedule: Any, at: tuple[float, ...]) -> None:
    guidance = PGD(2.0, schedule)
    assert [guidance.strength(level) for level in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(at)


def test_a_course_of_ones_own() -> None:
    guidance = PGD(2.0, "linear", interval=(0.0, 0.5))
    assert guidance.strength(0.5, lambda level: level**2) == 0.5
    assert guidance.strength(0.6, lambda level: level**2) == 0.0


def test_the_interval_is_closed() -> None:
    guidance = PGD(2.0, interval=(0.2, 0.8))
    levels = (0.0, 0.19, 0.2, 0.5, 0.8, 0.81, 1.0)
    assert [guidance.strength(level) for level in levels] == [0, 0, 2, 2, 2, 0, 0]


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_rescale(told: dict[str, torch.Tensor], scale: float) -> None:
    """All the way every sample has the base's spread, half the way the mean of both; direction stays."""
    spread = {name: rows.flatten(1).std(1) for name, rows in told.items()}
    plain = combine(told, PGD(scale).shares(0.5))
    whole, half = (combine(told, PGD(scale, rescale=r).shares(0.5), r) for r in (1.0, 0.5))
    torch.testing.assert_close(whole.flatten(1).std(1), spread["base"])
    torch.testing.assert_close(half, (whole + plain) / 2)
    torch.testing.assert_close(torch.cosine_similarity(whole.flatten(1), plain.flatten(1)), torch.ones(3))


@pytest.mark.parametrize("name", GUIDANCES)
@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": math.nan},
        {"scale": math.inf},
        {"scale": 1e6},
        {"scale": -1e6},
        {"interval": (0.8, 0.2)},
        {"interval": (0.5, 0.5)},
        {"interval": (-0.1, 0.5)},
        {"interval": (0.5, 1.1)},
        {"interval": (math.nan, 1.0)},
        {"rescale": 1.5},
        {"rescale": -0.1},
        {"rescale": math.nan},
    ],
    ids=str,
)
def test_settings_out_of_range(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^{next(iter(wrong))} ") as caught:
        GUIDANCES[name](**wrong)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("proxy", [math.nan, math.inf, 1e6])
def test_a_proxy_out_of_range(proxy: float) -> None:
    with pytest.raises(UserError, match=r"^proxy "):
        CHATSGuidance(proxy=proxy)


def test_a_schedule_that_is_not_known() -> None:
    guidance = PGD()
    object.__setattr__(guidance, "schedule", "square")  # by hand, since tests check the types of arguments
    with pytest.raises(ValueError, match=r"^schedule square: not known \(choose from constant, linear, cosine\)$"):
        guidance.__post_init__()
