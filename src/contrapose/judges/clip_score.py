"""CLIPScore (Hessel et al. 2021): how well the image fits its prompt, by any CLIP model."""

from __future__ import annotations

from dataclasses import dataclass

from contrapose.backbones.settings import Precision
from contrapose.judges.judge import Judge
from contrapose.ranges import Batch, checked
from contrapose.runfile import Practical


@dataclass(frozen=True)
@checked
class CLIPScore:
    """score = 100 * max(cos(image, prompt), 0), of each image; torchmetrics' scale, the paper's w being 2.5.

    Papers differ in the model (L/14, H/14, B/32) and their scores cannot be compared: name it with the number.
    """

    model: str = "openai/clip-vit-large-patch14"
    """Folder or hub id of the CLIP model with its tokenizer."""
    precision: Precision = "fp32"
    """Precision of the network."""
    batch_size: Practical[Batch] = 32
    """Images in the network at a time."""

    def load(self, device: str) -> Judge:
        """Raises `UserError` when the weights are missing or broken."""
        from contrapose.judges.batched import Batched
        from contrapose.judges.pretrained import fingerprint
        from contrapose.judges.towers import load_towers

        towers = load_towers("clipscore", self.model, self.model, self.precision, device)
        version = fingerprint(towers.network)
        return Batched("clipscore", version, lambda *pairs: 100 * towers.cosine(*pairs).relu(), self.batch_size)
