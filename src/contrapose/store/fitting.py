"""How photographs of any shape become a bucket's size: settings that decide it, each image's cut going by its seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

from contrapose.pixels import Size
from contrapose.ranges import Pixels, Positive, checked
from contrapose.seeds import seed_of
from contrapose.store.buckets import buckets

_COARSEST = 12  # a bucket's sides go in steps of at most this part of the resolution, so that few pairs are alone


class Canvas(Protocol):
    """What a model says of the images that it makes, as a backbone's `images` do."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Its usual latents, without the batch."""
        ...

    @property
    def unit(self) -> int:
        """Pixels of an image's side for each of a latent's."""
        ...

    @property
    def patch(self) -> int:
        """What the sides of latents are multiples of."""
        ...


@dataclass(frozen=True, kw_only=True)
@checked
class Fitting:
    """How images are cut to sizes that the model trains on."""

    resolution: Pixels | None = None
    """Pixels of a square image's side; images of other shapes get as many pixels. The model's usual size when unset."""
    crop: Literal["center", "random"] = "center"
    """Where an image is cropped to its bucket: in its centre, or at a random place, by the pair's seed, for both."""
    flip: bool = False
    """Mirror half of the pairs, chosen by their seed, both images of each; not for prompts that say left or right."""
    max_scale_up: Positive = 1.25
    """An image is left out when it would have to be scaled up by more than this."""

    @property
    def square(self) -> str | None:
        """The size of a square image as WIDTHxHEIGHT; None where the model's usual one is left to it."""
        return None if self.resolution is None else f"{self.resolution}x{self.resolution}"

    def resolution_for(self, canvas: Canvas) -> int:
        """The resolution, or the model's usual one."""
        usual: int = canvas.latent_shape[-1] * canvas.unit
        return usual if self.resolution is None else self.resolution

    def resolved(self, canvas: Canvas) -> Fitting:
        """The same with the resolution spelled out."""
        return replace(self, resolution=self.resolution_for(canvas))

    def buckets_for(self, canvas: Canvas) -> tuple[Size, ...]:
        """Sides in the coarsest steps that model and resolution have in common, up to a twelfth of the latter.

        Raises `UserError` for a resolution that the model cannot make.
        """
        resolution = self.resolution_for(canvas)
        least = canvas.unit * canvas.patch
        # divisors of the resolution, so that the square itself is a bucket
        steps = [step for step in range(least, resolution // _COARSEST + 1, least) if resolution % step == 0]
        return buckets(resolution, steps[-1] if steps else least)

    def flips(self, seed: int) -> bool:
        """Whether the pair of this seed is mirrored."""
        # seeds of their own names: whether a pair is mirrored says nothing of where it is cropped
        return self.flip and seed_of(seed, "flip") % 2 == 1

    def position(self, seed: int) -> tuple[float, float]:
        """Shares of the surplus that are cropped off at the left and at the top."""
        if self.crop == "center":
            return (0.5, 0.5)
        # seeds have 63 bits, so that these are even shares in 0..1
        return (seed_of(seed, "left") / 2**63, seed_of(seed, "top") / 2**63)
