"""Kinds of adapters that a run may train, each with its own settings, in peft's words; a choice is a class and a line.

What each computes is said in `contrapose.runs.adapter_layers`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from contrapose.ranges import Rank, checked

if TYPE_CHECKING:
    from peft import PeftConfig

    from contrapose.runs.adapter_layers import LayerAdapter


def _of_lora(rank: int, alpha: float, options: Mapping[str, Any], **kind: bool) -> PeftConfig:
    from peft import LoraConfig

    # peft computes with fractions too
    return LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", **options, **kind)  # type: ignore[arg-type]


def _by_rank(kind: object, scale: float, rank: int) -> float:
    """The alpha that gives this factor of the product, which is alpha / rank."""
    return scale * rank


@dataclass(frozen=True)
@checked
class PlainLora:
    """W + alpha / rank B A: LoRA (Hu et al. 2021, arXiv 2106.09685)."""

    title: ClassVar[str] = "LoRA"
    drops_out: ClassVar[bool] = True
    on_nf4: ClassVar[bool] = True
    on_text: ClassVar[bool] = True

    def config(self, rank: int, alpha: float, options: Mapping[str, Any]) -> PeftConfig:
        """In peft's words; `options` are those that all kinds have."""
        return _of_lora(rank, alpha, options)

    alpha = _by_rank


@dataclass(frozen=True)
@checked
class RankStabilised:
    """W + alpha / sqrt(rank) B A: rsLoRA, whose steps are as large at every rank (Kalajdzievski 2023, 2312.03732)."""

    title: ClassVar[str] = "rsLoRA"
    drops_out: ClassVar[bool] = True
    on_nf4: ClassVar[bool] = True
    on_text: ClassVar[bool] = True

    def config(self, rank: int, alpha: float, options: Mapping[str, Any]) -> PeftConfig:
        """As `PlainLora.config`."""
        return _of_lora(rank, alpha, options, use_rslora=True)

    def alpha(self, scale: float, rank: int) -> float:
        """The alpha that gives this factor of the product, which is alpha / sqrt(rank)."""
        return float(f"{scale * math.sqrt(rank):.12g}")  # the number that was divided by an irrational one


@dataclass(frozen=True)
@checked
class Decomposed:
    """m (W + alpha / rank B A) / |W + alpha / rank B A|: DoRA, with a magnitude m for each output (2402.09353)."""

    title: ClassVar[str] = "DoRA"
    drops_out: ClassVar[bool] = True
    on_nf4: ClassVar[bool] = True
    on_text: ClassVar[bool] = False  # transformers loads no magnitudes

    def config(self, rank: int, alpha: float, options: Mapping[str, Any]) -> PeftConfig:
        """As `PlainLora.config`."""
        return _of_lora(rank, alpha, options, use_dora=True)

    alpha = _by_rank


@dataclass(frozen=True)
@checked
class LoKr:
    """W + alpha / rank (W1 kron W2): LoKr, W1 being whole and small, W2 of this rank (2309.14859)."""

    title: ClassVar[str] = "LoKr"
    drops_out: ClassVar[bool] = False
    on_text: ClassVar[bool] = False  # its files hold one network
    on_nf4: ClassVar[bool] = False  # peft asks a weight for its shape, and one of four bits is packed

    lokr_factor: Rank | None = None
    """Size of the smaller Kronecker factor, where it divides the layer's width: small is many weights; as near as can
    be to the square root of the width when unset."""
    lokr_decompose_both: bool = False
    """Whether the smaller factor is of low rank too."""

    def config(self, rank: int, alpha: float, options: Mapping[str, Any]) -> PeftConfig:
        """As `PlainLora.config`."""
        from peft import LoKrConfig

        factor = -1 if self.lokr_factor is None else self.lokr_factor
        both = self.lokr_decompose_both
        return LoKrConfig(r=rank, alpha=alpha, decompose_factor=factor, decompose_both=both, **options)  # type: ignore[arg-type]

    alpha = _by_rank


@dataclass(frozen=True)
@checked
class LoHa:
    """W + alpha / rank (B1 A1) * (B2 A2), element by element: LoHa, of rank up to its square (2108.06098)."""

    title: ClassVar[str] = "LoHa"
    drops_out: ClassVar[bool] = False
    on_text: ClassVar[bool] = False  # its files hold one network
    on_nf4: ClassVar[bool] = False  # peft asks a weight for its shape, and one of four bits is packed

    def config(self, rank: int, alpha: float, options: Mapping[str, Any]) -> PeftConfig:
        """As `PlainLora.config`."""
        from peft import LoHaConfig

        return LoHaConfig(r=rank, alpha=alpha, **options)  # type: ignore[arg-type]

    alpha = _by_rank


AdapterKind = PlainLora | RankStabilised | Decomposed | LoKr | LoHa
ADAPTER_KINDS: dict[str, type[AdapterKind]] = {
    "lora": PlainLora,
    "rslora": RankStabilised,
    "dora": Decomposed,
    "lokr": LoKr,
    "loha": LoHa,
}
"""Kinds that `lora_kind` may name."""


def name_of_kind(kind: AdapterKind) -> str:
    """The kind's name in `ADAPTER_KINDS`."""
    return next(name for name, cls in ADAPTER_KINDS.items() if type(kind) is cls)


def kind_of(settings: Mapping[str, Any], adapter: LayerAdapter) -> AdapterKind:
    """The kind of stored adapters, by one layer of them and by peft's settings of them, if any."""
    if adapter.kind == "lora":
        return RankStabilised() if settings.get("use_rslora") else PlainLora()
    if adapter.kind == "lokr":
        factor = settings.get("decompose_factor")
        is_set = isinstance(factor, int) and factor > 0
        return LoKr(factor if is_set else None, bool(settings.get("decompose_both")))
    return Decomposed() if adapter.kind == "dora" else LoHa()
