"""The LAION aesthetic predictor, second version: what people would rate the image, whatever its prompt."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from contrapose.backbones.settings import Precision
from contrapose.errors import UserError
from contrapose.judges.judge import Judge
from contrapose.ranges import Batch, checked

if TYPE_CHECKING:
    from torch import nn

_PUBLISHED = "sac+logos+ava1-l14-linearMSE"
HEAD = f"{_PUBLISHED}.safetensors"
ADDRESS = f"https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/{_PUBLISHED}.pth"
_CONVERT = (
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    'save_file(torch.load(sys.argv[1], weights_only=True), sys.argv[2])" {published} {head}'
)
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
    head: Path = Path(HEAD)
    """The head's weights (.safetensors), converted once from the authors' .pth file of 3.7 MB; an error tells how."""
    precision: Precision = "fp32"
    """Precision of the CLIP model; the head is always fp32."""
    batch_size: Batch = 32
    """Images in the network at a time."""

    def load(self, device: str) -> Judge:
        """Raises `UserError` when the weights are missing or broken, or the head is for another CLIP model."""
        from contrapose.judges.batched import Batched
        from contrapose.judges.pretrained import fingerprint
        from contrapose.judges.towers import Towers

        if not self.head.is_file():
            command = _CONVERT.format(published=f"{_PUBLISHED}.pth", head=self.head)
            raise UserError(f"aesthetic: {self.head}: no such file; download {ADDRESS} and run once: {command}")
        towers = Towers("aesthetic", self.model, self.model, self.precision, device)
        head = load_head(self.head, towers.network.config.projection_dim).to(device)
        version = fingerprint(towers.network, head)
        return Batched("aesthetic", version, lambda images, _: head(towers.see(images))[:, 0], self.batch_size)


def load_head(path: Path, width: int) -> nn.Sequential:
    """The head over vectors of this width.

    Raises `UserError` for a file that is not the head of such vectors, or not .safetensors.
    """
    from safetensors.torch import load_file
    from torch import nn

    from contrapose.backbones.networks import check_finite
    from contrapose.judges.pretrained import reading

    if path.suffix != ".safetensors":
        command = _CONVERT.format(published=path, head=path.with_suffix(".safetensors"))
        raise UserError(
            f"aesthetic: {path}: only .safetensors is read, since other files can run code; convert it once: {command}"
        )
    sizes = (width, *_WIDTHS)
    head = nn.Sequential(*(nn.Linear(*ends) for ends in pairwise(sizes)))
    with reading("aesthetic", path, mend=f"it must be the head for vectors of {width}, as from {ADDRESS}"):
        stored = load_file(path)
        renamed = {}
        for number, place in enumerate(_PLACES):
            for end in ("weight", "bias"):
                renamed[f"{number}.{end}"] = stored[f"layers.{place}.{end}"]
        head.load_state_dict(renamed)
    check_finite(f"aesthetic: {path}", head)
    return head.eval().requires_grad_(False)
