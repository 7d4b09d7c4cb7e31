"""A frozen base in few bits under adapters in full precision; bitsandbytes needs a GPU, torchao does not."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import families
import pytest
import torch
from training import with_lora

from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.settings import Loading

FAMILIES = ["sd", "sd3", "sana", "flux"]


def _trains(folder: Path, name: str, kind: str, device: str, saved: Path) -> None:
    loading = Loading(quantize=kind)  # type: ignore[arg-type]
    backbone = with_lora(load_backbone(folder, torch.bfloat16, device, loading=loading), 4, 4.0)
    plain = with_lora(load_backbone(folder, torch.bfloat16, device), 4, 4.0)
    shape = backbone.images.shape_for(families.of(name).size)
    x_t, t = torch.randn(2, *shape, device=device), backbone.denoiser.noising(shape).at_level(0.5, 2).to(device)
    condition = {n: v.to(device) if v.is_floating_point() else v for n, v in backbone.text.embed(["a", "b"]).items()}
    with torch.no_grad():
        reference = backbone.predict("reference", x_t, t, condition)
        exact = plain.predict("reference", x_t, t, condition)
    answer = backbone.predict("trainee", x_t, t, condition)
    assert torch.equal(answer, reference)
    assert 0 < (reference - exact).float().norm() < 0.3 * exact.float().norm(), "few bits, and not too few"
    answer.float().square().mean().backward()
    assert all(p.grad is not None and p.dtype == torch.float32 for p in backbone.policies.parameters())
    with torch.no_grad():
        for parameter in backbone.policies.parameters():
            parameter.add_(0.02)
        moved = backbone.predict("trainee", x_t, t, condition)
    assert not torch.equal(moved, reference)
    backbone.save(saved)
    assert load_backbone(folder, adapter=saved).denoiser.network is not None
    further = load_backbone(folder, torch.bfloat16, device, loading=loading)
    further = with_lora(further, None, None, start=saved, frozen={"winner": saved, "lagged": None})
    for policy in ("trainee", "reference", "winner", "lagged"):
        assert torch.equal(further.predict(policy, x_t, t, condition), moved), policy


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
@pytest.mark.parametrize("name", FAMILIES)
def test_torchao(name: str, tiny_family: Callable[[str], Path], tmp_path: Path) -> None:
    _trains(tiny_family(name), name, "torchao-int8", "cpu", tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("name", FAMILIES)
def test_bitsandbytes(name: str, kind: str, tiny_family: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    _trains(tiny_family(name), name, kind, "cuda", tmp_path)
