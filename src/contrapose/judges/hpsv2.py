"""HPSv2 (Wu et al. 2023, xswu/HPSv2): a CLIP H/14 that learned people's choices; versions 2.0 and 2.1 do not compare.

SD1.4 has 26.95 by version 2.0 and 25.35 by 2.1, each times 100; papers that say only HPSv2 may mean either.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from contrapose.backbones.settings import Precision
from contrapose.judges.converted import Published
from contrapose.judges.judge import Judge
from contrapose.ranges import Batch, checked
from contrapose.runfile import Practical

if TYPE_CHECKING:
    from torch import Tensor

_LAION = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
_GET = "get it by 'hf download xswu/HPSv2 {} --local-dir .'"
V20 = Published("HPS_v2_compressed.pt", _GET.format("HPS_v2_compressed.pt"), "['state_dict']")
V21 = Published("HPS_v2.1_compressed.pt", _GET.format("HPS_v2.1_compressed.pt"), "['state_dict']")


@dataclass(frozen=True)
@checked
class HPSv21:
    """score = cos(image, prompt) by version 2.1, about .2 to .3; papers print it times 100."""

    weights: Path = V21.converted
    """The weights (.safetensors), converted once from the authors' .pt file; an error tells how."""
    model: str = _LAION
    """Folder or hub id of the CLIP model that was trained on: its tokenizer and sizes; its weights are not read."""
    precision: Precision = "fp32"
    """Precision of the network; the authors' code computes in fp16."""
    batch_size: Practical[Batch] = 16
    """Images in the network at a time."""

    def load(self, device: str) -> Judge:
        """Raises `UserError` when the weights are missing or broken, or of another model."""
        return _judge("hpsv2.1", V21, self, device)


@dataclass(frozen=True)
@checked
class HPSv20:
    """score = cos(image, prompt) by version 2.0, about .2 to .3; papers print it times 100."""

    weights: Path = V20.converted
    """The weights (.safetensors), converted once from the authors' .pt file; an error tells how."""
    model: str = _LAION
    """Folder or hub id of the CLIP model that was trained on: its tokenizer and sizes; its weights are not read."""
    precision: Precision = "fp32"
    """Precision of the network; the authors' code computes in fp16."""
    batch_size: Practical[Batch] = 16
    """Images in the network at a time."""

    def load(self, device: str) -> Judge:
        """Raises `UserError` when the weights are missing or broken, or of another model."""
        return _judge("hpsv2.0", V20, self, device)


def _judge(name: str, published: Published, settings: HPSv20 | HPSv21, device: str) -> Judge:
    """Differs from the authors' code: images are made smaller with antialiasing, which their torchvision had off."""
    from transformers import CLIPConfig, CLIPModel

    from contrapose.judges.batched import Batched
    from contrapose.judges.open_clip import as_transformers, letterboxed
    from contrapose.judges.pretrained import SMALL_FILES, find, fingerprint, load_tokenizer, reading, ready
    from contrapose.judges.towers import Towers

    folder = find(name, settings.model, SMALL_FILES)
    with reading(name, folder):
        config = CLIPConfig.from_pretrained(folder, local_files_only=True)

    def network_of(stored: dict[str, Tensor]) -> CLIPModel:
        network = CLIPModel(config)
        network.load_state_dict(as_transformers(stored))
        return network

    network = published.load(name, settings.weights, network_of)
    side = int(network.vision_model.embeddings.image_size)
    tokenizer = load_tokenizer(name, folder)
    towers = Towers(ready(network, settings.precision, device), tokenizer, lambda images: letterboxed(images, side))
    return Batched(name, fingerprint(network), towers.cosine, settings.batch_size)
