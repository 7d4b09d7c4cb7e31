"""PickScore (Kirstain et al. 2023, yuvalkirstain/PickScore): a CLIP H/14 that learned which image people pick."""

from __future__ import annotations

from dataclasses import dataclass

from contrapose.backbones.settings import Precision
from contrapose.judges.judge import Judge
from contrapose.ranges import Batch, checked
from contrapose.runfile import Practical


@dataclass(frozen=True)
@checked
class PickScore:
    """score = logit_scale.exp() * cos(image, prompt), about 19 to 23.

    P(first is picked) = sigmoid(difference). Not divided by 26, as Flow-GRPO's rewards are.
    """

    model: str = "yuvalkirstain/PickScore_v1"
    """Folder or hub id of the CLIP model."""
    processor: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    """Folder or hub id of the tokenizer and the preparation of images; its weights are not read."""
    precision: Precision = "fp32"
    """Precision of the network."""
    batch_size: Practical[Batch] = 16
    """Images in the network at a time."""

    def load(self, device: str) -> Judge:
        """Raises `UserError` when the weights are missing or broken."""
        from contrapose.judges.batched import Batched
        from contrapose.judges.pretrained import fingerprint
        from contrapose.judges.towers import load_towers

        towers = load_towers("pickscore", self.model, self.processor, self.precision, device)
        scale = towers.network.logit_scale.float().exp()
        version = fingerprint(towers.network)
        return Batched("pickscore", version, lambda *pairs: scale * towers.cosine(*pairs), self.batch_size)
