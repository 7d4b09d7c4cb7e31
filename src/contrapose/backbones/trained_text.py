"""Text encoders in training: prompts by number, each read by the policy that is asked, with adapters of its own.

Embeddings are then the policy's: the reference's are those of the encoders with adapters off, and a degraded prompt is
read by whichever policy answers to it. Nothing of them is kept from one call to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from contrapose.backbones.dropout import SeededRows
from contrapose.backbones.networks import Network
from contrapose.backbones.pipeline import LoadedPipeline
from contrapose.backbones.policies import LoraPolicies
from contrapose.core.group import Condition, join

PROMPT = "prompt"
_NONE = -1  # the number of no prompt


class NumberedPrompts:
    """Conditions that name prompts and embed none: `prompt` [b], a number each that lasts as long as this does."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def __call__(self, prompts: Sequence[str | None]) -> Condition:
        """The condition of these prompts, None being none."""
        numbers: list[int] = []
        for prompt in prompts:
            if prompt is not None and prompt not in self._numbers:
                self._numbers[prompt] = len(self.texts)
                self.texts.append(prompt)
            numbers.append(_NONE if prompt is None else self._numbers[prompt])
        return {PROMPT: torch.tensor(numbers)}


class TrainedText:
    """What a policy reads of numbered prompts, by its own adapters on the text encoders."""

    def __init__(self, pipeline: LoadedPipeline, prompts: NumberedPrompts, encoders: Mapping[str, LoraPolicies]):
        self._pipeline = pipeline
        self._prompts = prompts
        self._encoders = encoders

    def __call__(self, policy: str, numbers: Tensor) -> Condition:
        """The condition that the denoiser reads; gradients reach the adapters of policies that are trained."""
        is_trained = False
        for policies in self._encoders.values():
            policies.denoiser(policy)  # switches its adapters on, or off
            is_trained = policy in policies.trained
        # winner and loser have one prompt, which is read once
        distinct, places = torch.unique(numbers, return_inverse=True)
        pipeline = self._pipeline
        family = pipeline.family
        texts = [self._prompts.texts[number] for number in distinct.tolist() if number != _NONE]
        parts: list[Condition] = []
        is_recorded = torch.is_grad_enabled() and is_trained
        # the plain attention: fused ones round otherwise where there is a gradient, so that the trainee would not begin
        # as the reference
        with torch.set_grad_enabled(is_recorded), sdpa_kernel(SDPBackend.MATH):
            if _NONE in distinct.tolist():  # the lowest number, so that it comes first
                parts.append(family.read_unconditional(pipeline.stock, None, pipeline.device, pipeline.tokens))
            if texts:
                parts.append(family.read(pipeline.stock, texts, pipeline.device, pipeline.tokens))
        rows: dict[str, Tensor] = {}
        for name, value in join(parts).items():
            rows[name] = value[places.to(value.device)]
        return rows


class JointPolicies:
    """Policies of a denoiser whose adapters go with adapters on text encoders, as one; `Policies`, by part and name."""

    def __init__(self, part: str, denoiser: LoraPolicies, encoders: Mapping[str, LoraPolicies]):
        self.parts = {part: denoiser, **encoders}
        """The policies of each part of the pipeline, the denoiser's first."""
        self._denoiser = denoiser
        self.trained = denoiser.trained
        self.rows: SeededRows = denoiser.rows

    def modules(self) -> list[Network]:
        return self._denoiser.modules()

    def networks(self) -> list[Network]:
        return self._denoiser.networks()

    def denoiser(self, policy: str) -> nn.Module:
        return self._denoiser.denoiser(policy)

    def dtype(self, policy: str) -> torch.dtype:
        return self._denoiser.dtype(policy)

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for policies in self.parts.values() for parameter in policies.parameters()]

    def frozen_parameters(self, policy: str) -> list[nn.Parameter]:
        return [parameter for policies in self.parts.values() for parameter in policies.frozen_parameters(policy)]

    def state(self, policy: str = "trainee") -> dict[str, Tensor]:
        named: dict[str, Tensor] = {}
        for part, policies in self.parts.items():
            named |= {f"{part}.{name}": value for name, value in policies.state(policy).items()}
        return named

    def load_state(self, state: dict[str, Tensor], policy: str = "trainee") -> None:
        for part, policies in self.parts.items():
            of_part = {n.removeprefix(f"{part}."): v for n, v in state.items() if n.startswith(f"{part}.")}
            policies.load_state(of_part, policy)

    def copy(self, source: str = "trainee", to: str = "lagged", kept: float = 0.0) -> None:
        for policies in self.parts.values():
            policies.copy(source, to, kept)

    def average(self, policy: str) -> dict[int, Tensor]:
        return {}  # adapters are float32

    def take_parameters(self) -> None:
        for policies in self.parts.values():
            policies.take_parameters()
