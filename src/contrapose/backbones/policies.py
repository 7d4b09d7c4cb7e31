"""Named policies on one denoiser: LoRA adapters on a frozen base, or a full trainee beside frozen copies."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from peft import PeftConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

from contrapose.backbones.dropout import DropoutByPosition, SeededRows
from contrapose.backbones.kinds import AdapterKind
from contrapose.backbones.networks import Network
from contrapose.backbones.settings import USUAL_ADAPTERS
from contrapose.tensors import cut_as

ATTENTION_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
ENCODER_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


class Policies(Protocol):
    """The named policies of one denoiser: those that are trained, usually one `trainee`, `reference`, and others that
    are frozen too."""

    trained: tuple[str, ...]
    """The policies that are trained."""
    rows: SeededRows
    """Whose rows are asked about, for what drops out by them."""

    def modules(self) -> list[Network]:
        """The modules that hold the trainable parameters."""

    def networks(self) -> list[Network]:
        """All modules that predict, of frozen policies too."""

    def denoiser(self, policy: str) -> nn.Module:
        """The module that predicts as this policy; valid until the next call."""

    def dtype(self, policy: str) -> torch.dtype:
        """The precision that this policy takes its inputs in."""

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, in a fixed order."""

    def frozen_parameters(self, policy: str) -> list[nn.Parameter]:
        """A frozen policy's own parameters, in a fixed order; a reference that is the bare base has none."""

    def state(self, policy: str = "trainee") -> dict[str, Tensor]:
        """A policy's own weights by name; shards of them where its network is cut up over processes."""

    def load_state(self, state: dict[str, Tensor], policy: str = "trainee") -> None:
        """Put weights back that `state` gave, or the same in one piece."""

    def copy(self, source: str = "trainee", to: str = "lagged", kept: float = 0.0) -> None:
        """Give a frozen policy the weights of another of its form, in place; the share `kept` of its own stays."""

    def average(self, policy: str) -> dict[int, Tensor]:
        """Those of a frozen policy's parameters that are stored in less than float32, by their place and in float32.

        An average goes on from these, and the policy's own are rounded from them. Held from the first call on, which
        is to come while the policy is a copy of the trainee, so that nothing of its weights is lost.
        """

    def take_parameters(self) -> None:
        """Hold the parameters that the networks have by now, where others have been put in their places."""


@dataclass(frozen=True, eq=False)
class Lora:
    """A policy's adapters: rank, scale, layers and kind, and the weights that they start with."""

    rank: int
    alpha: float
    targets: tuple[str, ...] | str = ATTENTION_PROJECTIONS
    weights: Mapping[str, Tensor] | None = None
    """By name, as `LoraPolicies.state` gives them; None for fresh ones, which change nothing yet."""
    ranks: Mapping[str, int] = field(default_factory=dict)
    """Of layers that have another rank, by peft's patterns of names."""
    alphas: Mapping[str, float] = field(default_factory=dict)
    """Of layers that have another alpha."""
    kind: AdapterKind = USUAL_ADAPTERS.lora_kind
    dropout: float = 0.0
    """Share of their inputs that is left out where they are trained."""

    def config(self) -> PeftConfig:
        """In peft's words."""
        options = {
            "target_modules": self.targets if isinstance(self.targets, str) else list(self.targets),
            "rank_pattern": dict(self.ranks),
            "alpha_pattern": dict(self.alphas),
        }
        return self.kind.config(self.rank, self.alpha, options)


def inject(network: nn.Module, name: str, lora: Lora, dtype: torch.dtype) -> list[nn.Parameter]:
    """Put adapters of this precision on a network's layers under a name, with their weights where `lora` has some.

    Gives their parameters in the network's order; on a network without values, on the meta device, they have none.
    """
    device = next(network.parameters()).device
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are what is wanted
        # on a network without values further adapters would else be made with some
        is_meta = device.type == "meta"
        inject_adapter_in_model(lora.config(), network, adapter_name=name, low_cpu_mem_usage=is_meta)
    parameters = adapters_of(network, name)
    for parameter in parameters:
        parameter.data = parameter.data.to(dtype)
    if lora.weights is not None:
        weights = {key: value.to(device) for key, value in lora.weights.items()}
        set_peft_model_state_dict(network, weights, adapter_name=name)
    else:
        _begin_magnitudes(network, name)
    return parameters


def adapters_of(network: nn.Module, name: str) -> list[nn.Parameter]:
    """The parameters of the adapters under a name, in the network's order."""
    # LoRA's are layers of their own under this name, other kinds' the parameters themselves
    ends = (f".{name}.weight", f".{name}")
    return [parameter for path, parameter in network.named_parameters() if path.endswith(ends)]


@torch.no_grad()
def _begin_magnitudes(network: Network, name: str) -> None:
    """Let fresh magnitudes of DoRA be the norms that its forward divides by, to the bit.

    peft rounds them as the base is, so that adapters would not begin as nothing on a base in half precision.
    """
    for layer in network.modules():
        if not isinstance(layer, LoraLayer) or name not in layer.lora_magnitude_vector:
            continue
        magnitude = layer.lora_magnitude_vector[name]
        assert isinstance(magnitude, DoraLinearLayer)
        weight: Tensor = dequantize_module_weight(layer.get_base_layer())
        # as the forward has it: a matrix in the adapters' precision, a convolution in its own, under autocast
        is_half = weight.dtype != torch.float32 and weight.device.type != "meta"
        with torch.autocast(weight.device.type, weight.dtype) if is_half else nullcontext():
            weight = weight.float() if weight.ndim == 2 else weight
            norm = magnitude.get_weight_norm(weight, torch.zeros_like(weight), scaling=1.0)
        magnitude.weight.data = norm.float()


class LoraPolicies:
    """Policies as adapters on ONE frozen base, and as frozen networks of their own where a run was trained in full.

    Every trained policy starts from `lora`. The reference does too: a frozen adapter if `lora` carries weights,
    otherwise the base with adapters switched off. In `frozen`, None is a frozen copy of the first trained policy.
    """

    def __init__(
        self,
        denoiser: Network,
        lora: Lora,
        trained: tuple[str, ...] = ("trainee",),
        frozen: Mapping[str, Lora | nn.Module | None] = {},
    ):
        self._dtype: torch.dtype = denoiser.dtype
        self.trained = trained
        self._module: nn.Module = denoiser
        self.config = lora.config()
        denoiser.requires_grad_(False)
        self._networks = {
            name: policy.requires_grad_(False) for name, policy in frozen.items() if isinstance(policy, nn.Module)
        }
        self._adapters: dict[str, list[nn.Parameter]] = {}
        # without weights the adapters begin as nothing, and the base with adapters off is the reference
        begins_with_weights = ("reference",) if lora.weights else ()
        for name in (*trained, *begins_with_weights):
            self._inject(name, lora)
        for name, policy in frozen.items():
            if not isinstance(policy, nn.Module):
                self._inject(name, policy or lora)
            if policy is None:
                self.copy(trained[0], name)
        self._layers = [module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)]
        self.rows = SeededRows()
        if lora.dropout:
            self._drop_out(lora.dropout)
        self._active: str | None = None
        self.take_parameters()

    def take_parameters(self) -> None:
        for name in self._adapters:
            self._adapters[name] = adapters_of(self._module, name)
        in_training = {id(parameter) for name in self.trained for parameter in self._adapters[name]}
        self._parameters = [parameter for parameter in self._module.parameters() if id(parameter) in in_training]
        self._active = None
        self.denoiser(self.trained[0])

    def _inject(self, name: str, lora: Lora) -> None:
        # the base may be half precision; an adapter that is trained is not
        self._adapters[name] = inject(self._module, name, lora, torch.float32)

    def _drop_out(self, share: float) -> None:
        for name, layer in self._module.named_modules():
            if isinstance(layer, LoraLayer):
                for policy in self.trained:
                    layer.lora_dropout[policy] = DropoutByPosition(share, name, self.rows)

    def modules(self) -> list[Network]:
        return [self._module]

    def networks(self) -> list[Network]:
        return [self._module, *self._networks.values()]

    def denoiser(self, policy: str) -> nn.Module:
        if policy in self._networks:
            return self._networks[policy]
        if policy != self._active:
            for layer in self._layers:
                layer.enable_adapters(policy in self._adapters)
                if policy in self._adapters:
                    layer.set_adapter(policy)
            # peft lets what it switches on be trained, and freezes the rest: a pending backward would miss that
            for name, parameters in self._adapters.items():
                for parameter in parameters:
                    parameter.requires_grad_(name in self.trained)
            self._active = policy
        return self._module

    def dtype(self, policy: str) -> torch.dtype:
        return self._dtype

    def parameters(self) -> list[nn.Parameter]:
        return self._parameters

    def frozen_parameters(self, policy: str) -> list[nn.Parameter]:
        if policy in self._networks:
            return list(self._networks[policy].parameters())
        return self._adapters.get(policy, [])

    def state(self, policy: str = "trainee") -> dict[str, Tensor]:
        if policy in self._networks:
            return self._networks[policy].state_dict()
        return get_peft_model_state_dict(self._module, adapter_name=policy)

    def load_state(self, state: dict[str, Tensor], policy: str = "trainee") -> None:
        like = self.state(policy)
        cut = {name: cut_as(value, like.get(name)) for name, value in state.items()}
        if policy in self._networks:
            self._networks[policy].load_state_dict(cut)
        else:
            set_peft_model_state_dict(self._module, cut, adapter_name=policy)

    @torch.no_grad()
    def copy(self, source: str = "trainee", to: str = "lagged", kept: float = 0.0) -> None:
        _follow(self._adapters[to], self._adapters[source], kept, self.average(to))

    def average(self, policy: str) -> dict[int, Tensor]:
        return {}  # adapters are float32


class FullPolicies:
    """What is trained is the whole denoiser in float32; what is frozen stays in the precision it computes in.

    In `frozen`, None is a copy of the denoiser as it comes, and a network is frozen in the same way.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        frozen_dtype: torch.dtype,
        needs_reference: bool = True,
        trained: tuple[str, ...] = ("trainee",),
        frozen: Mapping[str, nn.Module | None] = {},
    ):
        asked = {"reference": None, **frozen} if needs_reference else frozen
        kept: dict[str, nn.Module] = {}
        for name, module in asked.items():
            kept[name] = _frozen_copy(denoiser, frozen_dtype) if module is None else _frozen(module, frozen_dtype)
        first = denoiser.float().requires_grad_(True)
        self.trained = trained
        self.rows = SeededRows()
        self._averages: dict[str, dict[int, Tensor]] = {}
        self._modules = {trained[0]: first} | {name: copy.deepcopy(first) for name in trained[1:]} | kept

    def modules(self) -> list[Network]:
        return [self._modules[name] for name in self.trained]

    def networks(self) -> list[Network]:
        return list(self._modules.values())

    def denoiser(self, policy: str) -> nn.Module:
        return self._modules[policy]

    def dtype(self, policy: str) -> torch.dtype:
        return torch.float32  # the frozen copies as well: autocast rounds for all alike

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for module in self.modules() for parameter in module.parameters()]

    def frozen_parameters(self, policy: str) -> list[nn.Parameter]:
        return list(self._modules[policy].parameters())

    def state(self, policy: str = "trainee") -> dict[str, Tensor]:
        return self._modules[policy].state_dict()

    def load_state(self, state: dict[str, Tensor], policy: str = "trainee") -> None:
        like = self.state(policy)
        self._modules[policy].load_state_dict({name: cut_as(value, like.get(name)) for name, value in state.items()})

    @torch.no_grad()
    def copy(self, source: str = "trainee", to: str = "lagged", kept: float = 0.0) -> None:
        average = self.average(to) if kept else self._averages.get(to, {})
        _follow(self.frozen_parameters(to), list(self._modules[source].parameters()), kept, average)

    def average(self, policy: str) -> dict[int, Tensor]:
        if policy not in self._averages:
            trainee = list(self._modules[self.trained[0]].parameters())
            self._averages[policy] = _in_float32(self.frozen_parameters(policy), trainee)
        return self._averages[policy]

    def take_parameters(self) -> None:
        assert not self._averages, "they are copies of the parameters that there were"


def _in_float32(followers: list[nn.Parameter], leaders: list[nn.Parameter]) -> dict[int, Tensor]:
    """By place, float32 copies of followers that are stored in less: of their leaders, if those rounded give them."""
    copies: dict[int, Tensor] = {}
    for place, (mine, other) in enumerate(zip(followers, leaders, strict=True)):
        if mine.dtype == torch.float32:
            continue
        is_rounded = torch.equal(mine, other.to(mine.dtype))
        copies[place] = (other if is_rounded else mine).detach().float().clone()
    return copies


def _follow(
    followers: list[nn.Parameter], leaders: list[nn.Parameter], kept: float, average: Mapping[int, Tensor]
) -> None:
    """w' = kept w + (1 - kept) w_leader; where `average` has w in float32, followers are rounded from it.

    At a decay of .999 a step moves w by less than half a unit of bfloat16's last place, so w rounded would stand still.
    """
    if kept == 0:
        for mine, other in zip(followers, leaders, strict=True):  # together is not to be had for tensors in shards
            mine.copy_(other)
        for place, weights in average.items():
            weights.copy_(leaders[place])
        return
    for place, (mine, other) in enumerate(zip(followers, leaders, strict=True)):
        weights = torch.lerp(other.float(), average.get(place, mine).float(), kept)
        mine.copy_(weights)
        if place in average:
            average[place].copy_(weights)


def _frozen(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module without gradients, with its products in the precision that autocast computes them in.

    Everything else (normalisation, tables of scales and shifts) autocast leaves in float32, and so does this: rounded
    weights there would make the reference differ from the trainee before the first step.
    """
    for part in module.requires_grad_(False).eval().modules():
        if _is_product(part):
            part.to(dtype)
    return module


def _frozen_copy(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """What `_frozen` makes of a copy, weight by weight, so that no second network in float32 is in memory."""
    copies: dict[int, Any] = {}
    for part in module.modules():
        for weight in part.parameters(recurse=False):
            value = weight.detach().to(dtype if _is_product(part) else weight.dtype, copy=True)
            copies[id(weight)] = nn.Parameter(value, requires_grad=False)
    return copy.deepcopy(module, copies).eval()  # which takes what is copied already as it is


def _is_product(part: nn.Module) -> bool:
    return isinstance(part, (nn.Linear, nn.Conv2d, nn.Conv3d))
