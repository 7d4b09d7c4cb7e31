"""What settings choose by name: where errors are measured, and what goes by noise level."""

from __future__ import annotations

from typing import Literal

Space = Literal["eps", "v", "x0", "velocity"]
Density = Literal["uniform", "logit-normal", "linear", "sigmoid"]
TimeDraws = Literal["independent", "spread"]
RandomCourse = Literal["sigmoid", "exponential", "always"]
Weighting = Literal["none", "linear", "sigmoid"]
