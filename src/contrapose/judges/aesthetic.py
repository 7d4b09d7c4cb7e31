"""The LAION aesthetic predictor, second version: what people would rate the image, without its prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from contrapose.backbones.settings import Precision
from contrapose.judges.converted import Published
from contrapose.judges.judge import Judge
from contrapose.ranges import Batch, checked
from contrapose.runfile import Practical

if TYPE_CHECKING:
    from torch import Tensor, nn

_ADDRESS = (
    "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/sac+logos+ava1-l14-linearMSE.pth"
)
HEAD = Published("sac+logos+ava1-l14-linearMSE.pth", f"download {_ADDRESS}")
_WIDTHS = (1024, 128, 64, 16, 1)
_PLACES = (0, 2, 4, 6, 7)  # of the layers in the authors' file, where dropout stands between them


@dataclass(frozen=True)
@checked
class Aesthetic:
    """score = head(unit CLIP L/14 vector of the image), about 1 to 10.

    The head's five layers have no activations between them, so it is one affine map. Many papers mean this second
    version by "aesthetic score"; the first, a single layer, gives other numbers.
    """

    model: str = "openai/clip-vit-large-patch14"
    """Folder or hub id of the CLIP model that the head was trained on."""
    head: Path = HEAD.converted
    """The head's weights (.safetensors), converted once from the authors' .pth file of 3.7 MB; an error tells how."""
    precision: Precision = "fp32"
    """Precision of the CLIP model; the head is always fp32."""
    batch_size: Practical[Batch] = 32
    """Images in the network at a time."""

    def load(self, device: str) -> Judge:
        """Raises `UserError` when the weights are missing or broken, or the head is for another CLIP model."""
        from contrapose.judges.batched import Batched
        from contrapose.judges.pretrained import fingerprint
        from contrapose.judges.towers import load_towers

        towers = load_towers("aesthetic", self.model, self.model, self.precision, device)
        head = load_head(self.head, towers.network.config.projection_dim).to(device)
        version = fingerprint(towers.network, head)
        return Batched("aesthetic", version, lambda images, _: head(towers.see(images))[:, 0], self.batch_size)


def load_head(path: Path, width: int) -> nn.Sequential:
    """The head over vectors of this width.

    Raises `UserError` for a file that is not the head of such vectors, or not .safetensors.
    """
    from torch import nn

    def network_of(stored: Mapping[str, Tensor]) -> nn.Sequential:
        head = nn.Sequential(*(nn.Linear(*ends) for ends in pairwise((width, *_WIDTHS))))
        for number, place in enumerate(_PLACES):
            head[number].load_state_dict({end: stored[f"layers.{place}.{end}"] for end in ("weight", "bias")})
        return head

    head = HEAD.load("aesthetic", path, network_of, kind=f"the head for vectors of {width}")
    return head.eval().requires_grad_(False)
