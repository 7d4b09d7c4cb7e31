"""The optimisers that a run may choose from, with the settings of the published runs where there are any."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from contrapose.errors import UserError
from contrapose.train.settings import Optimisation


def build_optimizer(o: Optimisation, parameters: Sequence[nn.Parameter], device: torch.device) -> Optimizer:
    """The optimiser that `o` names, over the trained parameters.

    Raises `UserError` when its library is missing.
    """
    if o.optimizer == "adafactor":
        return _adafactor(o, parameters)
    if o.optimizer != "adamw":
        return _bitsandbytes(o, parameters)
    fused = device.type in ("cpu", "cuda")
    return torch.optim.AdamW(parameters, o.learning_rate, (o.beta1, o.beta2), o.epsilon, o.weight_decay, fused=fused)


def _adafactor(o: Optimisation, parameters: Sequence[nn.Parameter]) -> Optimizer:
    """Adafactor (Shazeer & Stern 2018) as Diffusion-DPO's code runs it on SDXL.

    The learning rate is the schedule's own: no relative step, no scaling by the parameter's size, no first moment;
    updates clipped at RMS 1, second-moment decay 1 - step^-0.8. torch's own Adafactor always scales by the parameter's
    size, so that a LoRA matrix that starts at zero would learn a thousand times slower at the same rate.

    Gradients are scaled down to `max_grad_norm` first, as with AdamW. So they are in that code where its SDXL script
    chooses Adafactor; where Adafactor is asked for by name, as in CHATS's script, they are not: `max_grad_norm: 0`.
    """
    from transformers.optimization import Adafactor

    return Adafactor(
        parameters,
        lr=o.learning_rate,
        weight_decay=o.weight_decay,
        clip_threshold=1.0,
        scale_parameter=False,
        relative_step=False,
    )


def _bitsandbytes(o: Optimisation, parameters: Sequence[nn.Parameter]) -> Optimizer:
    """AdamW with both moments in 8 bits (Dettmers et al. 2021); paged, they may leave the GPU when memory runs out.

    Tensors of fewer than 4096 numbers keep 32-bit moments. A resumed run holds its moments on the GPU, paged or not.
    """
    try:
        from bitsandbytes import optim
    except (ImportError, RuntimeError, OSError) as error:
        raise UserError(
            f"optimizer {o.optimizer} needs bitsandbytes; run 'pip install bitsandbytes' or choose another "
            f"({' '.join(str(error).split())})"
        ) from None
    for parameter in parameters:  # as its first step would, which then takes the moments to lie in this order
        parameter.data = parameter.data.contiguous()
    kind = optim.PagedAdamW8bit if o.optimizer == "adamw-paged-8bit" else optim.AdamW8bit
    return kind(parameters, o.learning_rate, (o.beta1, o.beta2), o.epsilon, o.weight_decay)
