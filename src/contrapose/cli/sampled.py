"""The model that 'contrapose sample' and its like draw images with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from contrapose.guiding.settings import Sampling

if TYPE_CHECKING:
    from contrapose.backbones.base import Backbone
    from contrapose.backbones.settings import Precision
    from contrapose.store.prompts import Prompt


def load_sampled(settings: Sampling, precision: Precision, prompts: Sequence[Prompt], device: str) -> Backbone:
    """The model that is to be sampled; prompts that it will not read to their ends are told."""
    from contrapose.backbones.families.table import load_backbone
    from contrapose.backbones.loading import DTYPES
    from contrapose.backbones.speed import hasten
    from contrapose.cli.cut_prompts import tell_cut

    dtype = DTYPES[precision]
    backbone = load_backbone(settings.model, dtype, device, settings.adapter, settings.loading)
    hasten([backbone.denoiser.network], settings.speed, dtype, backbone.device)
    tell_cut(settings.prompts, prompts, backbone)
    return backbone
