"""What settings choose by name: where errors are measured, and how noise levels are weighted."""

from __future__ import annotations

from typing import Literal

Space = Literal["eps", "v", "x0", "velocity"]
Weighting = Literal["none", "linear", "sigmoid"]
