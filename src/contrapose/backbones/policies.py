"""Named policies on one denoiser: LoRA adapters on a frozen base, or a full trainee beside a frozen copy."""

from __future__ import annotations

import copy

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

ATTENTION_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


class LoraPolicies:
    """Every policy an adapter on ONE frozen base; the reference is the base with adapters off."""

    def __init__(self, denoiser: nn.Module, rank: int, alpha: float, targets: tuple[str, ...] = ATTENTION_PROJECTIONS):
        denoiser.requires_grad_(False)
        self.config = LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(targets))
        self.trainee = denoiser
        denoiser.add_adapter(self.config, adapter_name="trainee")
        for parameter in self.parameters():
            parameter.data = parameter.data.float()  # the base may be half precision; what is trained is not
        self._active = "trainee"

    def denoiser(self, policy: str) -> nn.Module:
        if policy != self._active:
            if policy == "reference":
                self.trainee.disable_adapters()
            else:
                self.trainee.enable_adapters()
                self.trainee.set_adapter(policy)
            self._active = policy
        return self.trainee

    def parameters(self) -> list[nn.Parameter]:
        return [p for name, p in self.trainee.named_parameters() if ".trainee." in name]

    def state(self) -> dict[str, Tensor]:
        return get_peft_model_state_dict(self.trainee, adapter_name="trainee")

    def load_state(self, state: dict[str, Tensor]) -> None:
        set_peft_model_state_dict(self.trainee, state, adapter_name="trainee")


class FullPolicies:
    """The trainee is the whole denoiser in float32; what is frozen stays in the precision it computes in."""

    def __init__(self, denoiser: nn.Module, frozen_dtype: torch.dtype, needs_reference: bool = True):
        frozen = _frozen_copy(denoiser, frozen_dtype) if needs_reference else None
        self.trainee = denoiser.float().requires_grad_(True)
        self._modules = {"trainee": self.trainee} | ({"reference": frozen} if frozen is not None else {})

    def denoiser(self, policy: str) -> nn.Module:
        return self._modules[policy]

    def parameters(self) -> list[nn.Parameter]:
        return list(self.trainee.parameters())

    def state(self) -> dict[str, Tensor]:
        return self.trainee.state_dict()

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.trainee.load_state_dict(state)


def _frozen_copy(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy without gradients, in the precision that autocast computes in.

    Autocast runs normalisation in float32, so its weights stay as they are: rounded ones would make the reference
    differ from the trainee before the first step.
    """
    frozen = copy.deepcopy(module).requires_grad_(False).eval()
    for part in frozen.modules():
        if not isinstance(part, (nn.GroupNorm, nn.LayerNorm)):
            for parameter in part.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    return frozen
