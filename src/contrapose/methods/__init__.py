"""One short file a paper. The union below is the registry: a method is a frozen dataclass with an objective."""

from __future__ import annotations

from contrapose.methods.ddspo import DDSPO
from contrapose.methods.diffusion_dpo import DiffusionDPO
from contrapose.methods.sft import SFT

Method = DDSPO | DiffusionDPO | SFT

METHODS: dict[str, type[Method]] = {"ddspo": DDSPO, "diffusion-dpo": DiffusionDPO, "sft": SFT}
