"""How a model is read, beyond its name, how adapters are put on it, and how fast it is to be: what whatever has a model
holds."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from contrapose.backbones.kinds import AdapterKind, PlainLora, name_of_kind
from contrapose.errors import UserError
from contrapose.ranges import ShareBelow1, Tokens, checked

ATTENTION = "attention"
ALL_LINEAR = "all-linear"

Precision = Literal["fp32", "fp16", "bf16"]
"""Bits of a network's numbers: 32, or 16 in either split between exponent and fraction."""
Quantisation = Literal["none", "nf4", "int8", "torchao-int8"]
"""Precision of a frozen network's linear layers: none less than its own, or so many bits by which library."""
AttentionName = Literal[
    "flash", "flash_varlen", "_flash_3", "_flash_varlen_3", "flex", "native", "_native_cudnn", "_native_efficient",
    "_native_flash", "_native_math", "sage", "sage_varlen", "_sage_qk_int8_pv_fp8_cuda",
    "_sage_qk_int8_pv_fp8_cuda_sm90", "_sage_qk_int8_pv_fp16_cuda", "_sage_qk_int8_pv_fp16_triton", "xformers",
]  # fmt: skip
"""Diffusers' backends of attention, but those that fetch compiled code from the hub, and those of NPUs and XLA."""


@dataclass(frozen=True, kw_only=True)
@checked
class Loading:
    """Which of a model's weights are read, how much text, and how the frozen network is kept."""

    variant: str | None = None
    """Which of several copies of the weights is read, such as fp16; the plain one when unset."""
    text_length: Tokens | None = None
    """Tokens that the largest text encoder reads, where that is not CLIP; its usual number when unset."""
    quantize: Quantisation = "none"
    """Precision of the frozen network's weights: nf4 and int8 need bitsandbytes, torchao-int8 needs torchao."""


UNREAD_BY_IMAGES = ("text_length", "quantize")
"""What of `Loading` is of other parts than the autoencoder: what only encodes or decodes images does not have it."""


@dataclass(frozen=True, kw_only=True)
@checked
class Haste:
    """How the same predictions come sooner, where device and packages have it; results change by rounding alone.

    Practical everywhere, as micro-batches are: a run that moves to another GPU may go on without what is not there.
    """

    compile: bool = False
    """Compile the denoiser's network with torch.compile, which takes minutes at each form that it is asked in."""
    tf32: bool = False
    """Multiply float32 matrices in TF32, with 10 bits of each number's 23: faster on Ampere and later GPUs, and nothing
    in bf16 and fp16."""
    channels_last: bool = False
    """Keep convolutions with channels innermost in memory, as tensor cores read them; for UNets."""
    attention: AttentionName | None = None
    """Kernels of attention by diffusers' names, for FLUX, Qwen-Image and Z-Image; torch's own when unset. SageAttention
    rounds to 8 bits and is for sampling alone."""


@dataclass(frozen=True, kw_only=True)
@checked
class Adapters:
    """Which adapters are trained, and on which layers."""

    lora_kind: AdapterKind = field(default_factory=PlainLora)
    """Kind of the adapters: lora, rslora (scaled by the square root of the rank), dora (with magnitudes of their own),
    lokr and loha (Kronecker and Hadamard products)."""
    lora_targets: tuple[str, ...] | None = None
    """Layers with adapters: attention (the projections that the family's trainers adapt), all-linear, ends of their
    names, such as to_q or ff.net.2, or regular expressions of their whole names; attention when unset, or the layers of
    the run that this one starts at."""
    lora_dropout: ShareBelow1 = 0.0
    """Dropout of the denoiser's adapters in training, as a share of what they read; the same for any micro-batch and
    number of processes. lokr and loha have none."""

    train_text_encoder: bool = False
    """Put adapters on the CLIP text encoders too, of the same rank and alpha (lora and rslora alone); prompts are then
    read anew at every step, and all text encoders stay in memory."""

    def __post_init__(self) -> None:
        if self.train_text_encoder and not self.lora_kind.on_text:
            kind = name_of_kind(self.lora_kind)
            raise UserError(f"train_text_encoder: stock libraries load no {kind} on text encoders; take lora or rslora")
        if self.lora_dropout and not self.lora_kind.drops_out:
            raise UserError(
                f"lora_dropout: {name_of_kind(self.lora_kind)} has none; leave it out, or take lora, rslora or dora"
            )
        if self.lora_targets == ():
            raise UserError("lora_targets: name a layer at least, or leave the setting out")
        for target in self.lora_targets or ():
            try:
                re.compile(target)
            except re.error as error:
                raise UserError(f"lora_targets {target!r:.100}: is no regular expression ({error})") from None


USUAL_ADAPTERS = Adapters()
