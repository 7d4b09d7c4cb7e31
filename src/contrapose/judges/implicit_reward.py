"""Implicit reward: what an aligned run itself prefers, as SAIL labels its own samples (ICLR 2026, arXiv 2602.05380)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from contrapose.backbones.settings import Precision
from contrapose.contents import digest_of_parts
from contrapose.errors import UserError
from contrapose.judges.judge import Judge
from contrapose.ranges import Batch, Positive, Range, Steps, checked
from contrapose.runfile import Practical

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
@checked
class ImplicitReward:
    """score = (beta / 2) mean_jk (R_jk - T_jk): how much better a run explains the image than the model it began with.

    T_jk and R_jk are the errors of the run's and the base's predictions at the image noised again to time u_j, by the
    k-th of K noises that are two by two each other's opposites; the times are n equal parts' middles. This is the
    reward that training with a preference method raises for winners (Diffusion-DPO, eq. 14), so that a run of a few
    labelled pairs judges samples without labels.

    Differs from the authors' code: none was to be read; how many noises and times they take is not known to us.
    """

    run: Path | None = None
    """Run that judges, against the model that it was trained on."""
    model: str = ""
    """Folder or hub id of that model; the one that the run's settings name when empty."""
    beta: Positive = 5000.0
    """Unit of the score, as of Diffusion-DPO's beta; changes no order."""
    probes: Annotated[int, Range(2, 1000, integer=True, even=True)] = 2
    """Noises at each time, an even number; a judged image costs twice them times the times in forwards."""
    probe_steps: Steps = 10
    """Times, at even distances between data and noise."""
    precision: Precision = "fp32"
    """Precision of the networks."""
    batch_size: Practical[Batch] = 8
    """Noised samples in a network at a time."""

    def load(self, device: str) -> Judge:
        return self.load_for(device, "", "")

    def load_for(self, device: str, model: str, fingerprint: str) -> Judge:
        import torch

        from contrapose.backbones.families.table import load_backbone
        from contrapose.backbones.loading import DTYPES
        from contrapose.judges.probes import AskedModel, Probes, ProbingJudge
        from contrapose.runs.folder import RunFolder

        if self.run is None:
            raise UserError("implicit-reward: is a run's own; name the run as its option run")
        folder = RunFolder(self.run)
        backbone = load_backbone(self.model or folder.settings()["model"], DTYPES[self.precision], device)
        # fresh adapters change nothing and are never asked; beside them stand the base and the run
        trainable = backbone.denoiser.lora(1, 1.0, frozen={"run": self.run})
        asked = AskedModel.of(backbone, trainable.predict)
        named = [backbone.fingerprint, folder.digest, self.probes, self.probe_steps, self.precision, self.beta]
        version = digest_of_parts(map(str, named))
        shares = (torch.arange(self.probe_steps) + 0.5) / self.probe_steps
        probes = Probes(shares, self.probes, self.batch_size)
        beta = self.beta

        def reward(errors: Tensor, levels: Tensor) -> Tensor:
            return mean_reward(beta, errors)

        is_own = backbone.fingerprint == fingerprint
        return ProbingJudge("implicit-reward", version, asked, ("run", "reference"), probes, reward, is_own)


def mean_reward(beta: float, errors: Tensor) -> Tensor:
    """The mean of r over a run's and its base's errors [2, times, num]."""
    from contrapose.core.reward import implicit_reward

    trainee, reference = errors.flatten(1)
    return implicit_reward(beta, trainee[None], reference[None]).mean()
