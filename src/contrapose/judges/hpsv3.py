"""HPSv3 (Ma et al. 2025, MizzenAI/HPSv3): a Qwen2-VL that learned people's preferences over a wide range of images."""

from __future__ import annotations

from dataclasses import dataclass

from contrapose.backbones.settings import Precision
from contrapose.judges.judge import Judge
from contrapose.ranges import Batch, checked
from contrapose.runfile import Practical

FILE = "HPSv3.safetensors"


@dataclass(frozen=True)
@checked
class HPSv3:
    """score = mu of the authors' (mu, sigma), about -1 to 13, without bounds.

    The network reads the image at 200704 pixels, the authors' instruction and the prompt, and scores them at its
    token <|Reward|>. Positions count 1, 2, 3, ... over image and text alike, as in the authors' code under their
    transformers, and not by rows and columns of the image as Qwen2-VL's otherwise do. The head computes in fp32.
    """

    weights: str = "MizzenAI/HPSv3"
    """Folder or hub id that holds HPSv3.safetensors."""
    model: str = "Qwen/Qwen2-VL-7B-Instruct"
    """Folder or hub id of the model that was trained on: its tokenizer and sizes; its weights are not read."""
    precision: Precision = "bf16"
    """Precision of the network but for its head."""
    batch_size: Practical[Batch] = 4
    """Images in the network at a time."""

    def load(self, device: str) -> Judge:
        """Raises `UserError` when the weights or the small files are missing or broken, or not of each other."""
        from contrapose.judges.batched import Batched
        from contrapose.judges.hpsv3_network import load_hpsv3
        from contrapose.judges.pretrained import fingerprint

        scorer = load_hpsv3("hpsv3", self.weights, FILE, self.model, self.precision, device)
        return Batched("hpsv3", fingerprint(scorer.network), scorer.mu, self.batch_size)
