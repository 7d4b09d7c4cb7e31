"""Which schedulers a family takes, by every scheduler that diffusers has, and what becomes of zero terminal SNR."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import families
import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler, SchedulerMixin

from contrapose.backbones.coherence import check_space
from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.times import why_no_diffusion, why_no_flow, why_no_sampling
from contrapose.cli.main import main
from contrapose.errors import UserError

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# Those of Stable Diffusion: all walk the path of the betas, and are what users exchange.
SHARE = [
    "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "TCDScheduler",
    "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "LCMScheduler",
    "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LMSDiscreteScheduler",
    "PNDMScheduler", "UniPCMultistepScheduler", "SASolverScheduler", "DDIMParallelScheduler", "DDPMParallelScheduler",
]  # fmt: skip
FLOW = ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"]
WITH_FLOW_SIGMAS = ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"]


def _every_scheduler() -> dict[str, Any]:
    """One of each class that can be made without further arguments or libraries."""
    made = {}
    for name in sorted(name for name in dir(diffusers) if name.endswith("Scheduler")):
        kind = getattr(diffusers, name)
        try:
            takes = inspect.signature(kind.__init__).parameters
            made[name] = kind(**{key: value for key, value in BETAS.items() if key in takes})
        except (ImportError, TypeError, ValueError):
            continue
    return {name: one for name, one in made.items() if isinstance(one, SchedulerMixin)}


EVERY = _every_scheduler()


@pytest.mark.parametrize("name", SHARE)
@pytest.mark.parametrize("zero", [False, True], ids=["usual", "zero SNR"])
def test_schedulers_that_share_the_betas_are_taken(name: str, zero: bool) -> None:
    kind = getattr(diffusers, name)
    if zero and "rescale_betas_zero_snr" not in inspect.signature(kind.__init__).parameters:
        pytest.skip("it has no such setting")
    scheduler = kind(**BETAS, **({"rescale_betas_zero_snr": True} if zero else {}))
    assert why_no_diffusion(scheduler) is None
    assert why_no_sampling(scheduler, 30) is None
    assert why_no_flow(scheduler) is not None


@pytest.mark.parametrize("name", EVERY)
def test_what_is_taken_adds_noise_as_the_path_does(name: str) -> None:
    """x_t of its own abar is x_t of the scheduler that trained the model."""
    if why_no_diffusion(EVERY[name]) is not None:
        assert name not in SHARE
        return
    x0, eps = torch.randn(2, 1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    usual = DDPMScheduler(**BETAS).add_noise(x0, eps, torch.tensor([700]))
    abar = torch.as_tensor(EVERY[name].alphas_cumprod)[700].float()
    torch.testing.assert_close(abar.sqrt() * x0 + (1 - abar).sqrt() * eps, usual, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", FLOW)
def test_flow_schedulers_are_of_flow_families(name: str) -> None:
    scheduler = getattr(diffusers, name)()
    assert why_no_flow(scheduler) is None
    assert why_no_sampling(scheduler, 30) is None
    assert "flow matching" in str(why_no_diffusion(scheduler))


@pytest.mark.parametrize("name", WITH_FLOW_SIGMAS)
def test_flow_sigmas_are_of_flow_families(name: str) -> None:
    kind = getattr(diffusers, name)
    assert why_no_flow(kind(use_flow_sigmas=True, prediction_type="flow_prediction")) is None
    assert "epsilon" in str(why_no_flow(kind(use_flow_sigmas=True)))
    assert "flow matching" in str(why_no_diffusion(kind(use_flow_sigmas=True)))


def _with_scheduler(model: Path, scheduler: Any) -> Path:
    index = json.loads((model / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", type(scheduler).__name__]
    (model / "model_index.json").write_text(json.dumps(index))
    shutil.rmtree(model / "scheduler")
    scheduler.save_pretrained(model / "scheduler")
    return model


STRAIGHT = "does not walk the straight path"
# A family, a scheduler that is put into its folder, with its settings, and the reason that is told.
MISFITS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "EDM in SDXL": ("sdxl", "EDMDPMSolverMultistepScheduler", {}, "it has no betas"),
    "EDM Euler in SD": ("sd", "EDMEulerScheduler", {}, "it has no betas"),
    "flow in SD": ("sd", "FlowMatchEulerDiscreteScheduler", {}, "flow matching"),
    "flow in PixArt": ("pixart", "FlowMatchHeunDiscreteScheduler", {}, "flow matching"),
    "flow sigmas in SDXL": ("sdxl", "UniPCMultistepScheduler", {"use_flow_sigmas": True, **BETAS}, "flow matching"),
    "backwards in SD": ("sd", "DDIMInverseScheduler", {}, "from images to noise"),
    "video's betas in SD": ("sd", "CogVideoXDDIMScheduler", {}, "not those of its betas"),
    "consistency in SD": ("sd", "CMStochasticIterativeScheduler", {}, "it has no betas"),
    "betas that grow too large": ("sd", "DDIMScheduler", {"trained_betas": [0.1, 2.5, 0.1]}, "from data to noise"),
    "betas that are no numbers": ("sd", "DDIMScheduler", {"beta_end": float("nan")}, "beta_end is nan"),
    "DDIM in SD3": ("sd3", "DDIMScheduler", {}, STRAIGHT),
    "DPM++ in SANA": ("sana", "DPMSolverMultistepScheduler", {}, STRAIGHT),
    "eps in SANA": ("sana", "DPMSolverMultistepScheduler", {"use_flow_sigmas": True}, "type epsilon"),
    "EDM in FLUX": ("flux", "EDMEulerScheduler", {}, STRAIGHT),
    "backwards in one stream": (
        families.names(attention="single")[0],
        "FlowMatchEulerDiscreteScheduler",
        {"invert_sigmas": True},
        "from noise to data",
    ),
    "few times in SD3": ("sd3", "FlowMatchEulerDiscreteScheduler", {"num_train_timesteps": 100}, "100 times"),
}


@pytest.mark.parametrize("what", MISFITS)
def test_a_scheduler_of_another_path_is_refused_by_name(
    what: str, tiny_family: Callable[[str], Path], tmp_path: Path
) -> None:
    family, name, settings, why = MISFITS[what]
    scheduler = getattr(diffusers, name)(**settings)
    model = _with_scheduler(shutil.copytree(tiny_family(family), tmp_path / "model"), scheduler)
    with pytest.raises(UserError) as refused:
        load_backbone(model)
    line = str(refused.value)
    assert str(model) in line and why in line and len(line.splitlines()) == 1
    assert name in line or "scheduler_config.json" in line


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_zero_terminal_snr(prediction: str, tiny_family: Callable[[str], Path], tmp_path: Path) -> None:
    """At the end of such a schedule x_t is noise alone, of which a prediction of the noise tells nothing more."""
    scheduler = EulerDiscreteScheduler(**BETAS, prediction_type=prediction, rescale_betas_zero_snr=True)
    model = _with_scheduler(shutil.copytree(tiny_family("sdxl"), tmp_path / "model"), scheduler)
    backbone = load_backbone(model)
    check_space(backbone.denoiser, backbone.denoiser.space)
    x, t = torch.ones(1, 4, 8, 8), torch.tensor([999])
    for space in ("eps", "v", "x0"):
        answer = backbone.denoiser.path.convert(x, x, t, backbone.denoiser.space, space)
        if prediction == "epsilon" and space != "eps":
            assert not answer.isfinite().all()
            with pytest.raises(UserError, match=r"zero terminal SNR.* \(eps\) do not tell") as refused:
                check_space(backbone.denoiser, space)
            assert str(model) in str(refused.value)
            check_space(backbone.denoiser, space, torch.tensor([0, 998]))
        else:
            assert answer.isfinite().all()
            check_space(backbone.denoiser, space)


@pytest.mark.parametrize("name", [*families.DISTINCT, "sd-v"])
def test_usual_models_tell_what_the_image_is(name: str, tiny_family: Callable[[str], Path]) -> None:
    backbone = load_backbone(tiny_family(name))
    check_space(backbone.denoiser, "x0")
    check_space(backbone.denoiser, backbone.denoiser.space)


@pytest.mark.parametrize("method", ["ddspo", "diffusion-dro"])
def test_a_run_that_cannot_measure_is_refused_before_its_folder_is_claimed(
    method: str,
    tiny_family: Callable[[str], Path],
    tiny_pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not told hours later that it diverged, for which no learning rate is to blame."""
    scheduler = EulerDiscreteScheduler(**BETAS, rescale_betas_zero_snr=True)
    model = _with_scheduler(shutil.copytree(tiny_family("sd"), tmp_path / "model"), scheduler)
    space = ["--space", "x0"] if method == "ddspo" else []
    arguments = ["align", method, "--model", model, "--pairs", tiny_pairs, "--foreign-pairs", *space]
    out = tmp_path / "out"
    assert main([*map(str, arguments), "--train-steps", "2", "--out", str(out)]) == 2
    assert "zero terminal SNR" in capsys.readouterr().err
    assert not (out / "run.yaml").exists()
