"""Guidance in somebody's own script asks for diffusers and peft alone, with what these two bring along."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import contrapose as cp

BROUGHT = {"accelerate", "diffusers", "huggingface-hub", "numpy", "peft", "pillow", "pyyaml", "safetensors", "torch"}
BROUGHT |= {"tokenizers", "transformers", "fsspec"}
MODULES = {"pyyaml": "yaml", "huggingface-hub": "huggingface_hub", "pillow": "PIL"}
SCRIPT = """
import json, sys
model, run, absent = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys(absent))  # an import of them fails, as where they are not installed

import contrapose
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(model)
pipe.set_progress_bar_config(disable=True)
with contrapose.guide(pipe, positive=run, scale=2.0), contrapose.nag(pipe, scale=2.0):
    pipe("a red circle", negative_prompt="a star", num_inference_steps=1)
"""


def _absent() -> list[str]:
    """Modules of our own dependencies that neither diffusers nor peft brings."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block
    names = {name.replace("_", "-").lower() for name in re.findall(r'"([\w.-]+)', block[1])}
    return sorted(MODULES.get(name, name) for name in names - BROUGHT)


@pytest.mark.slow
def test_guidance_needs_no_library_of_the_trainer(tiny_model: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    one_step = cp.Optimisation(train_steps=1, batch_size=2, micro_batch=2)
    for _ in cp.align(cp.Run(str(tiny_model), tiny_pairs, cp.SFT(), optimisation=one_step), tmp_path / "run"):
        pass
    absent = _absent()
    assert {"cattrs", "matplotlib", "pyarrow", "tyro"} <= set(absent)
    asked = json.dumps([str(tiny_model), str(tmp_path / "run"), absent])
    ended = subprocess.run([sys.executable, "-c", SCRIPT, asked], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
