"""The basis of an autoencoder's latents, changed after training without changing what it decodes to."""

from __future__ import annotations

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from contrapose.pixels import to_tensor

# Standard deviation of the posterior, by which the decoder learns to bear a denoiser's small errors. A learnt one hid
# faint backgrounds: the encoder would have had to raise them above the noise before the decoder could see them.
LATENT_NOISE = 0.05

_AT_ONCE = 50  # images that are encoded together


@torch.no_grad()
def whiten(vae: AutoencoderKL, images: np.ndarray) -> None:
    """Give the latents of such images [n, h, w, 3] mean 0 and covariance 1 over channels.

    z' = C^(-1/2) (z - m), C the covariance of sampled latents: it counts the posterior's variance too, so that a
    direction that carries nothing is not blown up.
    """
    latents = _latents(vae, images)
    levels, directions = torch.linalg.eigh(torch.cov(latents.T) + LATENT_NOISE**2 * torch.eye(latents.shape[1]))
    _change_basis(vae, latents.mean(dim=0), directions @ levels.rsqrt().diag() @ directions.T)


@torch.no_grad()
def follow(vae: AutoencoderKL, former: AutoencoderKL, images: np.ndarray) -> None:
    """Bring the latents of such images [n, h, w, 3] as near to another autoencoder's as an affine map of channels can.

    z' = A z + b, by least squares. A denoiser of the other's latents reads these, then, as nearly its own.
    """
    latents = _latents(vae, images)
    design = torch.cat([latents, torch.ones(len(latents), 1)], dim=1)
    solution = torch.linalg.lstsq(design, _latents(former, images)).solution
    forward = solution[:-1].T.contiguous()
    _change_basis(vae, -torch.linalg.solve(forward, solution[-1]), forward)


def _latents(vae: AutoencoderKL, images: np.ndarray) -> Tensor:
    """The images' latents, one row for each place, [n * places, channels]."""
    parts = np.array_split(images, len(images) // _AT_ONCE + 1)
    means = torch.cat([vae.encode(to_tensor(part)).latent_dist.mean for part in parts])
    return means.permute(0, 2, 3, 1).flatten(0, 2)


def _change_basis(vae: AutoencoderKL, center: Tensor, forward: Tensor) -> None:
    """Let the latents be z' = W (z - m) in place of z, decoded images staying as they are.

    W and m are folded into the autoencoder's two convolutions of 1 x 1 at its latents. Of the posterior's variance,
    which a channel has to itself, the diagonal is kept.
    """
    channels = len(center)
    weight, bias = _parameters(vae.quant_conv)
    weight[:channels] = torch.einsum("oc,cihw->oihw", forward, weight[:channels])
    bias[:channels] = forward @ (bias[:channels] - center)
    # the other half of this convolution gives the logarithm of the posterior's variance
    weight[channels:] = 0.0
    bias[channels:] = (LATENT_NOISE**2 * forward @ forward.T).diagonal().log()
    # what was decoded from z is now decoded from z' by way of z = W^(-1) z' + m; the bias first, by the old weights
    weight, bias = _parameters(vae.post_quant_conv)
    bias += weight.flatten(1) @ center
    weight.copy_(torch.einsum("ocij,cd->odij", weight, torch.linalg.inv(forward)))


def _parameters(convolution: nn.Conv2d | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution; diffusers declares both it and its bias as optional."""
    assert convolution is not None and convolution.bias is not None
    return convolution.weight, convolution.bias
