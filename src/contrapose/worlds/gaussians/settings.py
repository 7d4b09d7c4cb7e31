"""Everything that decides the toy experiment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from contrapose.errors import UserError
from contrapose.methods import METHODS, Method
from contrapose.methods.own_steps import StepSampling
from contrapose.ranges import AtLeast0, Batch, Count, Positive, Range, Seed, Share, checked

if TYPE_CHECKING:
    from contrapose.worlds.gaussians.modes import Modes
    from contrapose.worlds.gaussians.outcome import Key

Neighbours = Literal["couple", "both"]
_TITLES = {"diffusion-dpo": "Diffusion-DPO", "ddspo": "DDSPO"}  # as in the paper's figure
# whose beta multiplies something else than half a difference of errors
_OF_OTHER_UNITS = ("dspo", "mapo", "crd", "spo", "tailorpo", "d3po")


@dataclass(frozen=True)
@checked
class Toy:
    """Settings of the Gaussians toy."""

    methods: tuple[str, ...] = ("diffusion-dpo", "ddspo")
    """Methods that are compared, as `align` names them: all that train one policy and always ask under a prompt. One
    that draws its own samples is judged by how near they are to their mode, and sees no pairs."""
    seeds: tuple[Seed, ...] = (0, 1, 2, 3, 4)
    """Seeds of the repetitions; each has its own reference, pairs and noise."""
    pairs_per_class: tuple[Batch, ...] = (1, 2, 8)
    """Sizes of the preference data."""
    shown: Batch = 2
    """Pairs per class of the runs in the picture, one of the sizes above."""
    num_modes: Annotated[int, Range(2, 1000, integer=True)] = 8
    """Conditions; an even number if neighbours come in couples."""
    neighbours: Neighbours = "couple"
    """Which modes are taken for one another: couples, or both neighbours on the circle."""
    noisy_spread: AtLeast0 = 0.25
    """Standard deviation of the modes that the reference is taught; the clean ones have 0.12."""
    mislabelled: Share = 0.3
    """Share of the reference's data that comes from a neighbour's mode."""
    width: Annotated[int, Range(1, 2**13, integer=True)] = 96
    """Hidden units of the denoiser."""
    reference_steps: Count = 2000
    """Adam steps of the reference, on fresh batches of 512 and a rate of 2e-3 that falls to zero."""
    beta: Positive = 25.0
    """Strength of the pull to the reference, for every method but dspo, mapo, crd and those of steps (spo, tailorpo,
    d3po), which keep their own."""
    learning_rate: Positive = 1e-5
    """Learning rate of the alignment, for all methods."""
    train_steps: Count = 300
    """Optimiser steps of the alignment."""
    batch_size: Batch = 128
    """Pairs a step, drawn with repetition, each with its own time and noise."""
    samples_per_class: Batch = 300
    """Points drawn of each condition for the measures."""

    def __post_init__(self) -> None:
        for setting, values in (("seeds", self.seeds), ("methods", self.methods)):
            if not values:
                raise UserError(f"{setting}: name one at least")
            if len(set(values)) < len(values):
                raise UserError(f"{setting} {' '.join(map(str, values))}: name each once")
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown:
            raise UserError(f"methods {unknown[0]}: no such method (known: {', '.join(METHODS)})")
        if self.shown not in self.pairs_per_class:
            raise UserError(f"shown = {self.shown} is not among pairs_per_class = {self.pairs_per_class}")
        if self.neighbours == "couple" and self.num_modes % 2:
            raise UserError(f"num_modes = {self.num_modes} is odd; couples need an even number, or neighbours = both")

    @property
    def modes(self) -> Modes:
        from contrapose.worlds.gaussians.modes import Modes

        return Modes(
            self.num_modes,
            noisy_spread=self.noisy_spread,
            mislabelled=self.mislabelled,
            neighbours=self.neighbours,
        )

    @property
    def keys(self) -> list[Key]:
        """The rows of the table."""
        compared = [(title, num_pairs) for num_pairs in self.pairs_per_class for title in self.titles]
        return [("clean data", 0), ("reference", 0), *compared]

    @property
    def titles(self) -> list[str]:
        """What the methods are called in tables and pictures."""
        return [_TITLES.get(name, name) for name in self.methods]

    def aligned(self) -> dict[str, Method]:
        """The methods with their settings, by their titles.

        Raises `UserError` for one that trains several policies, or asks without a prompt.
        """
        methods = {}
        for name, title in zip(self.methods, self.titles, strict=True):
            method = METHODS[name](**self._settings(name))
            if len(method.objective().trained) > 1:
                raise UserError(f"methods {name}: trains several policies, and the toy draws from one; leave it out")
            if method.composition().dropout:
                raise UserError(f"methods {name}: asks without a prompt, which the toy's model cannot; leave it out")
            methods[title] = method
        return methods

    def _settings(self, name: str) -> dict[str, Any]:
        fields = METHODS[name].__dataclass_fields__
        settings: dict[str, Any] = {}
        if "beta" in fields and name not in _OF_OTHER_UNITS:
            settings["beta"] = self.beta
        # the toy's pairs are lists of two
        if "num_samples" in fields:
            settings["num_samples"] = 2
        if "sampling" in fields and fields["sampling"].default_factory is StepSampling:
            # the toy's model is not asked without a condition
            settings["sampling"] = StepSampling(rollout_guidance_scale=1.0)
        return settings
