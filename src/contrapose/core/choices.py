"""What settings choose by name: where errors are measured, and how noise levels are drawn and weighted."""

from __future__ import annotations

from typing import Literal

Space = Literal["eps", "v", "x0", "velocity"]
Density = Literal["uniform", "logit-normal", "linear", "sigmoid"]
Weighting = Literal["none", "linear", "sigmoid"]
