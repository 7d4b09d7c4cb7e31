"""What turns images into features: a network, and the resizer before it, which decides the number as much.

Four resizers are in use, and no two of them give FIDs that compare; each extractor's name says which one it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, Resampling, fromarray

from contrapose.judges.converted import Published
from contrapose.pixels import lab
from contrapose.ranges import Batch, Range, checked
from contrapose.runfile import Practical

if TYPE_CHECKING:
    from torch import Tensor

Resizer = Literal["tensorflow", "pytorch", "clean", "antialiased"]
Side = Annotated[int, Range(1, 64, integer=True)]

_DINO_SIDE = 224  # of the images that a DINOv2 sees
_MID_GREY = np.array([50.0, 0.0, 0.0])  # in Lab
_LAB_UNIT = 50.0  # of Lab: black and white are 1 away from mid grey

_WEIGHTS = "pt_inception-2015-12-05-6726825d"
PUBLISHED = Published(
    f"{_WEIGHTS}.pth",
    f"download https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{_WEIGHTS}.pth",
)


@dataclass(frozen=True)
class Extracted:
    """What an extractor makes of images."""

    features: NDArray[np.float32]
    """[n, d]."""
    probabilities: NDArray[np.float32] | None = None
    """[n, c] of an extractor that tells classes apart; the inception score needs them."""


class Traits(NamedTuple):
    """What an extractor's features are, so that metrics that need it are refused before any image is looked at."""

    classes: bool = False
    """Whether it tells classes apart."""
    unit: bool = False
    """Whether its features are of length 1."""


class Extractor(Protocol):
    """From RGB images of any size to features, which depend on each image alone."""

    @property
    def name(self) -> str:
        """The network and the resizer, as they are to stand beside every number."""
        ...

    @property
    def version(self) -> str:
        """A digest of the weights."""
        ...

    def __call__(self, images: Sequence[Image]) -> Extracted: ...


@dataclass(frozen=True)
class BatchedExtractor:
    """An extractor by a function from images to features and, if any, logits; `batch_size` images at a time."""

    name: str
    version: str
    measure: Callable[[Sequence[Image]], tuple[Tensor, Tensor | None]]
    batch_size: int

    def __call__(self, images: Sequence[Image]) -> Extracted:
        import torch

        features = []
        probabilities = []
        with torch.inference_mode():
            for first in range(0, len(images), self.batch_size):
                batch = [image.convert("RGB") for image in images[first : first + self.batch_size]]
                seen, logits = self.measure(batch)
                features.append(seen.float().cpu().numpy())
                if logits is not None:
                    probabilities.append(logits.float().softmax(-1).cpu().numpy())
        return Extracted(np.concatenate(features), np.concatenate(probabilities) if probabilities else None)


@dataclass(frozen=True)
@checked
class InceptionFeatures:
    """Features [2048] and classes [1008] of the Inception v3 that FID and IS were published with."""

    weights: Practical[Path] = PUBLISHED.converted
    """The weights (.safetensors), converted once from pytorch-fid's .pth file; an error tells how."""
    resizer: Resizer = "clean"
    """How images come to 299x299: tensorflow (the first FIDs; torch-fidelity), pytorch (pytorch-fid), clean (clean-fid,
    which papers of text-to-image use) or antialiased (torchmetrics since 1.8)."""
    batch_size: Practical[Batch] = 32
    """Images in the network at a time."""

    traits: ClassVar[Traits] = Traits(classes=True)

    def load(self, device: str) -> Extractor:
        """Raises `UserError` when the weights are missing or broken."""
        import torch

        from contrapose.evaluate.sets.inception import SIDE, Inception
        from contrapose.judges.pretrained import fingerprint, ready

        def network_of(stored: dict[str, Tensor]) -> Inception:
            network = Inception()
            network.load_state_dict(stored)
            return network

        network = PUBLISHED.load("inception", self.weights, network_of)
        ready(network, "fp32", device)

        def measure(images: Sequence[Image]) -> tuple[Tensor, Tensor]:
            pixels = torch.stack([resized(image, SIDE, self.resizer) for image in images])
            features, logits = network(pixels.to(device))
            return features, logits

        return BatchedExtractor(f"inception-{self.resizer}", fingerprint(network), measure, self.batch_size)


@dataclass(frozen=True)
@checked
class ClipFeatures:
    """Unit vectors of a CLIP model, prepared as CLIP was trained: CLIP-FID and CMMD are by these."""

    model: Practical[str] = "openai/clip-vit-large-patch14-336"
    """Folder or hub id: L/14 at 336 is CMMD's, B/32 is clean-fid's CLIP-FID."""
    batch_size: Practical[Batch] = 32
    """Images in the network at a time."""

    traits: ClassVar[Traits] = Traits(unit=True)

    def load(self, device: str) -> Extractor:
        """Raises `UserError` when the weights are missing or broken."""
        from contrapose.judges.pretrained import fingerprint
        from contrapose.judges.towers import load_towers

        towers = load_towers("clip", self.model, self.model, "fp32", device)
        name = f"clip-{Path(self.model).name}"
        return BatchedExtractor(
            name, fingerprint(towers.network), lambda images: (towers.see(images), None), self.batch_size
        )


@dataclass(frozen=True)
@checked
class DinoFeatures:
    """Class tokens of a DINOv2, which learned from images alone, with no words (Stein et al. 2023, FD-DINOv2).

    Images: short side to 224 (bicubic), centre crop, mean and deviation of the model's own.
    """

    model: Practical[str] = "facebook/dinov2-large"
    """Folder or hub id of the model."""
    batch_size: Practical[Batch] = 32
    """Images in the network at a time."""

    traits: ClassVar[Traits] = Traits()

    def load(self, device: str) -> Extractor:
        """Raises `UserError` when the weights are missing or broken."""
        from transformers import Dinov2Model

        from contrapose.judges.pretrained import find, fingerprint, load_image_processor, load_network

        folder = find("dinov2", self.model)
        processing = load_image_processor("dinov2", folder)
        network = load_network("dinov2", folder, Dinov2Model, "fp32", device)
        # the published preparation shrinks to 256 and cuts the edges off
        sizes = {"size": {"shortest_edge": _DINO_SIDE}, "crop_size": {"height": _DINO_SIDE, "width": _DINO_SIDE}}

        def measure(images: Sequence[Image]) -> tuple[Tensor, None]:
            pixels = processing(images=list(images), return_tensors="pt", **sizes)["pixel_values"]
            return network(pixel_values=pixels.to(device)).pooler_output, None

        name = f"{Path(self.model).name}-{_DINO_SIDE}"
        return BatchedExtractor(name, fingerprint(network), measure, self.batch_size)


@dataclass(frozen=True)
class _LabPixels:
    """An extractor without a network."""

    side: int
    version: ClassVar[str] = "1"

    @property
    def name(self) -> str:
        return f"lab-pixels-{self.side}"

    def __call__(self, images: Sequence[Image]) -> Extracted:
        size = (self.side, self.side)
        small = [np.asarray(image.convert("RGB").resize(size, Resampling.BOX)) for image in images]
        colours = (lab(np.stack(small)) - _MID_GREY) / _LAB_UNIT
        # divided so that a squared length is the mean over pixels, however many there are
        pixels = colours.reshape(len(images), -1) / self.side
        features = np.concatenate([np.ones((len(images), 1)), pixels], axis=1)
        return Extracted(features.astype(np.float32))


@dataclass(frozen=True)
@checked
class PixelFeatures:
    """Colours of a small copy of the image in CIE Lab: needs no weights, and sees layout and colour but no objects.

    [1, (Lab - mid grey) / 50] of side x side pixels, each the mean of its area. The 1 keeps a grey image from having no
    direction, so that 1 - cos grows with the colours' distance there too.
    """

    side: Side = 8
    """Pixels along each side of the small copy."""

    traits: ClassVar[Traits] = Traits()

    def load(self, device: str) -> Extractor:
        """Never fails, and computes on the CPU alone."""
        return _LabPixels(self.side)


@dataclass(frozen=True)
class NoFeatures:
    """Images are not looked at beside being judged."""


AnyExtractor = InceptionFeatures | ClipFeatures | DinoFeatures | PixelFeatures
AnyFeatures = NoFeatures | AnyExtractor
EXTRACTORS: dict[str, type[AnyExtractor]] = {
    "pixels": PixelFeatures,
    "clip": ClipFeatures,
    "dinov2": DinoFeatures,
    "inception": InceptionFeatures,
}
FEATURES: dict[str, type[AnyFeatures]] = {"none": NoFeatures, **EXTRACTORS}


def resized(image: Image, side: int, resizer: Resizer) -> Tensor:
    """[3, side, side] of an RGB image, about -1 to 1, as the tool that the resizer is named after makes it."""
    import torch
    import torch.nn.functional as F

    if resizer == "clean":
        return (torch.from_numpy(clean_resize(image, side)) - 128) / 128
    pixels = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1)
    if resizer == "tensorflow":
        return (tensorflow_resize(pixels, side) - 128) / 128
    smooth = resizer == "antialiased"
    pixels = F.interpolate(pixels[None], (side, side), mode="bilinear", align_corners=False, antialias=smooth)[0]
    # pytorch-fid takes 0 to 255 to -1 to 1; the others divide by 128
    return (pixels - 128) / 128 if smooth else pixels / 127.5 - 1


def clean_resize(image: Image, side: int) -> NDArray[np.float32]:
    """PIL's bicubic of each channel as real numbers, which never rounds nor clips (Parmar et al. 2022)."""
    channels = np.moveaxis(np.asarray(image, dtype=np.float32), -1, 0)
    sized = [fromarray(channel).resize((side, side), Resampling.BICUBIC) for channel in channels]
    return np.stack([np.asarray(channel, dtype=np.float32) for channel in sized])


def tensorflow_resize(pixels: Tensor, side: int) -> Tensor:
    """TensorFlow 1's bilinear: pixel i of the answer lies at i * (old side / new side), with no half pixel added."""
    return _lerped(_lerped(pixels, side, 1), side, 2)


def _lerped(values: Tensor, side: int, axis: int) -> Tensor:
    import torch

    length = values.shape[axis]
    places = torch.arange(side, dtype=torch.float32) * (length / side)
    below = places.floor().long()
    above = (below + 1).clamp(max=length - 1)
    shape = [1, 1, 1]
    shape[axis] = side
    share = (places - below).view(shape)
    return torch.lerp(values.index_select(axis, below), values.index_select(axis, above), share)
