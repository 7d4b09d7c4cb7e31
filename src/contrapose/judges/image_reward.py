"""ImageReward (Xu et al. 2023, THUDM/ImageReward): a BLIP that learned people's rankings of images for a prompt."""

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
    from PIL.Image import Image
    from torch import Tensor

PUBLISHED = Published("ImageReward.pt", "get it by 'hf download THUDM/ImageReward ImageReward.pt --local-dir .'")
MEAN = 0.16717363830052426  # of the authors' rewards, and their deviation, by which scores are standardised
DEVIATION = 1.0333394966054072
LENGTH = 35  # tokens of a prompt that are read


@dataclass(frozen=True)
@checked
class ImageReward:
    """score = (reward - .167) / 1.033, about -2 to 2, 0 being the average of the authors' data."""

    weights: Path = PUBLISHED.converted
    """The weights (.safetensors), converted once from the authors' ImageReward.pt; an error tells how."""
    tokenizer: str = "google-bert/bert-base-uncased"
    """Folder or hub id of the tokenizer; its model's weights are not read."""
    precision: Precision = "fp32"
    """Precision of the network."""
    batch_size: Practical[Batch] = 16
    """Images in the network at a time."""

    def load(self, device: str) -> Judge:
        """Raises `UserError` when the weights or the tokenizer are missing or broken."""
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        from contrapose.judges.batched import Batched
        from contrapose.judges.blip_reward import BlipReward
        from contrapose.judges.pretrained import SMALL_FILES, find, fingerprint, load_tokenizer, ready

        tokenizer = load_tokenizer("imagereward", find("imagereward", self.tokenizer, SMALL_FILES))
        network = PUBLISHED.load("imagereward", self.weights, BlipReward.of_weights)
        ready(network, self.precision, device)
        # The sides that the network was made for; mean and deviation are CLIP's, which are this class's own.
        prepare = CLIPImageProcessorPil(
            size={"shortest_edge": network.side}, crop_size={"height": network.side, "width": network.side}
        )

        def measure(images: list[Image], prompts: list[str]) -> Tensor:
            pixels = prepare(images=images, return_tensors="pt")["pixel_values"]
            tokens = tokenizer(
                prompts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
            ).to(device)
            reward = network(pixels.to(device, network.dtype), tokens["input_ids"], tokens["attention_mask"])
            return (reward - MEAN) / DEVIATION

        return Batched("imagereward", fingerprint(network), measure, self.batch_size)
