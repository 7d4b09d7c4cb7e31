"""Self-confidence (SOLACE, CVPR 2026, arXiv 2603.00918): how well a model tells the noise that its own sample gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from contrapose.backbones.settings import Precision
from contrapose.contents import digest_of_parts
from contrapose.errors import UserError
from contrapose.judges.judge import Judge
from contrapose.ranges import Batch, Range, checked
from contrapose.runfile import Practical

if TYPE_CHECKING:
    from torch import Tensor

    from contrapose.core.group import Condition
    from contrapose.judges.probes import AskedModel

_LEAST = 1e-6  # added to an error whose logarithm is taken


@dataclass(frozen=True)
@checked
class SelfConfidence:
    """score = sum_j w_j (-log(mean_k mse_jk + 1e-6)) / sum_j w_j,   w_j = u_j (1 - u_j), without any further network.

    mse_jk is the error of the model's prediction at the sample noised again to time u_j, by the k-th of K noises that
    are two by two each other's opposites. The times are the later half of a sampler's n, its first being 1, but for the
    last. Published: K 8, n 10 on SD3.5 (15 on SDXL), by the model as it is being trained.

    Differs from the authors' code: its numbers are brought to mean 0 and variance 1 at each time over a batch before
    they are weighted, so that they depend on what else is in the batch; here each image is judged by itself.
    """

    model: str = ""
    """Folder or hub id of the model that judges; the one that drew what is judged when empty, where that is known."""
    probes: Annotated[int, Range(2, 1000, integer=True, even=True)] = 8
    """Noises at each time, an even number; a judged image costs them times the times in forwards."""
    probe_steps: Annotated[int, Range(3, 1000, integer=True)] = 10
    """Steps of the sampler's way of which the later half are the times."""
    precision: Precision = "fp32"
    """Precision of the network, where it is loaded for judging."""
    batch_size: Practical[Batch] = 8
    """Noised samples in the network at a time."""

    def load(self, device: str) -> Judge:
        return self.load_for(device, "", "")

    def load_for(self, device: str, model: str, fingerprint: str) -> Judge:
        from contrapose.backbones.families.table import load_backbone
        from contrapose.backbones.loading import DTYPES
        from contrapose.judges.probes import AskedModel

        if not (self.model or model):
            raise UserError(
                "self-confidence: is a model's own; name the model that drew the images as its option model"
            )
        backbone = load_backbone(self.model or model, DTYPES[self.precision], device)
        denoiser = backbone.denoiser

        def predict(policy: str, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
            return denoiser.denoise(denoiser.network, x_t.to(denoiser.dtype), t, condition)

        asked = AskedModel.of(backbone, predict)
        return self._judge(asked, "model", backbone.fingerprint, backbone.fingerprint == fingerprint)

    def of_policy(self, asked: AskedModel, policy: str) -> Judge | None:
        """The judge that a policy is which is in memory already; None where another model is named."""
        return None if self.model else self._judge(asked, policy, f"policy {policy}", knows_latents=True)

    def _judge(self, asked: AskedModel, policy: str, weights: str, knows_latents: bool) -> Judge:
        import torch

        from contrapose.judges.probes import Probes, ProbingJudge

        version = digest_of_parts([weights, str(self.probes), str(self.probe_steps), self.precision])
        # the sampler's times from the middle of its way on, but for the last, where hardly any noise is left
        places = range((self.probe_steps - 1) // 2, self.probe_steps - 1)
        shares = torch.tensor([(self.probe_steps - place) / self.probe_steps for place in places])
        probes = Probes(shares, self.probes, self.batch_size)
        return ProbingJudge("self-confidence", version, asked, (policy,), probes, confidence, knows_latents)


def confidence(errors: Tensor, levels: Tensor) -> Tensor:
    """The score of a model's errors [1, times, num] at times of these noise levels [times]."""
    of_times = -(errors[0].mean(1) + _LEAST).log()
    weights = levels * (1 - levels)
    return (weights * of_times).sum() / weights.sum()
