"""What to change when memory does not suffice: the settings that the estimate says would fit."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn

from contrapose.backbones.loading import DTYPES
from contrapose.backbones.meta import decoding, encoding, example, skeleton
from contrapose.backbones.settings import Loading, Precision
from contrapose.errors import UserError
from contrapose.estimate.fitting import GIB, USABLE, fit_card, gib, needed_by
from contrapose.estimate.memory import inference_cost
from contrapose.estimate.settings import Setup, sized
from contrapose.estimate.standing import CONTEXT, weight_bytes
from contrapose.processes import num_processes
from contrapose.train.settings import Run

_LESS = 0.9  # of what was too much, where the estimate took it for enough
_HALF = 0.5  # of the images at once, likewise
_PRACTICAL = ("--gradient-checkpointing", "--micro-batch", "--split-pairs")
"""Options that a run may be carried on with."""
_SMALLER = "smaller images or less precision"


def card_size(device: str = "cuda") -> float | None:
    """GiB of the GPU that computes; None where there is none, or another device computes."""
    if torch.device(device).type != "cuda" or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(device).total_memory / GIB


def _setup(run: Run) -> Setup:
    """A run of as many processes as there are, where they share the networks."""
    return Setup(run, num_processes=1 if run.sharding.shard == "none" else num_processes())


def warning_before(run: Run, card: float) -> str | None:
    """One line for a run that a card of so many GiB is too small for, with what would fit; None for any other.

    None too for a model whose configuration cannot be read: loading it tells why.
    """
    with suppress(UserError):
        fitted = fit_card(sized(_setup(run)), card)
        if fitted.changes == ():
            return None
        return f"this run may not fit the GPU's {card:.1f} GiB by 'contrapose estimate': {fitted}"
    return None


def after_training(run: Run, card: float | None) -> str:
    """What to change when memory ran out in training.

    Named is what fits the card, None where it is not known, and takes a tenth less than the run as it was: that was
    more than there is, whatever the estimate says of it.
    """
    generic = "take a smaller --micro-batch or --gradient-checkpointing"
    with suppress(UserError):
        setup = sized(_setup(run))
        as_it_is = needed_by(setup)
        less = CONTEXT + _LESS * (as_it_is - CONTEXT)
        fitted = fit_card(setup, _budget(card, less) / (GIB * USABLE))
        if not fitted.changes:
            return f"no setting takes less than its {gib(as_it_is)} by 'contrapose estimate'; take a smaller model"
        takes = f"{fitted.flags} would take about {gib(fitted.bytes)} of {gib(as_it_is)} by 'contrapose estimate'"
        if all(change.startswith(_PRACTICAL) for change in fitted.changes):
            return f"{takes}, and the same command with that carries on from what is saved"
        return f"{takes}, with another --out; what is saved stays"
    return generic


@dataclass(frozen=True)
class Images:
    """Images that a model makes or reads, so many at once."""

    model: str
    precision: Precision
    loading: Loading
    size: str | None = None
    """As WIDTHxHEIGHT; the model's usual one when unset."""
    batch: int = 1
    coded: bool = False
    """Whether they pass through the autoencoder alone."""

    def warning_before(self, card: float) -> str | None:
        """One line where a card of so many GiB is too small for one image; None where it is not.

        None too for a model whose configuration cannot be read: loading it tells why.
        """
        with suppress(UserError):
            standing, image = self.bytes
            if standing + image <= card * GIB * USABLE:
                return None
            needed = gib(standing + image)
            return f"one image may not fit the GPU's {card:.1f} GiB: about {needed} by the estimate's sums; {_SMALLER}"
        return None

    def after(self, card: float | None) -> str:
        """What to change when memory ran out: how many images at once would fit."""
        with suppress(UserError):
            standing, image = self.bytes
            as_it_is = standing + self.batch * image
            budget = _budget(card, standing + _HALF * self.batch * image)
            fewer = int((budget - standing) // image)
            if fewer >= 1:
                takes = f"{gib(standing + fewer * image)} of {gib(as_it_is)}"
                return f"{fewer} images at once instead of {self.batch} would take about {takes} by the estimate's sums"
        return f"take a smaller --batch-size, {_SMALLER}" if self.batch > 1 else f"take {_SMALLER}"

    @property
    def bytes(self) -> tuple[int, int]:
        """Bytes that stay on the GPU meanwhile, and the most that one image takes on top.

        A sampled image is two rows of the denoiser with classifier-free guidance, and then the decoder's; all networks
        stay. One that is only coded is the encoder's or the decoder's, whichever takes more.
        """
        backbone = skeleton(self.model, DTYPES[self.precision], self.loading)
        network = backbone.denoiser.network
        shape = backbone.images.shape_for(self.size)
        most = inference_cost(decoding(backbone, shape)).peak
        if self.coded:
            encode, _ = encoding(backbone, shape)
            return CONTEXT + weight_bytes(backbone.sampler.stock.vae, "none"), max(most, inference_cost(encode).peak)
        row = example(backbone, 1, shape, backbone.text.rows)
        denoised = inference_cost(lambda: backbone.denoiser.denoise(network, *row))
        standing = CONTEXT
        for part in backbone.sampler.stock.components.values():
            if isinstance(part, nn.Module):
                standing += weight_bytes(part, self.loading.quantize if part is network else "none")
        return standing, max(2 * denoised.peak, most)


def after_judging(suite: object, features: object) -> str:
    """What to change when memory ran out while images were judged: what is looked at at once, or where."""
    readers = {f"judges.{number}": judge for number, judge in enumerate(getattr(suite, "judges", ()))}
    flags: list[str] = []
    for name, settings in (readers | {"features": features}).items():
        at_once = getattr(settings, "batch_size", 1)
        is_here = not getattr(settings, "address", None)
        if at_once > 1 and is_here:
            flags.append(f"--{name}.batch-size {at_once // 2}")
    less = " ".join(flags) or "a smaller network to judge by"
    return f"take {less}, or --device cpu"


def _budget(card: float | None, less: float) -> float:
    """Bytes that something else may take, where what took more than `less` did not fit."""
    return less if card is None else min(less, card * GIB * USABLE)
