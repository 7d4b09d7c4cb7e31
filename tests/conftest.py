"""For every test: one thread a worker, array shapes checked in `core`, and what cannot run here is skipped."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test may reach for the network

if importlib.util.find_spec("beartype"):
    # Before anything imports contrapose: shapes in annotations are checked under pytest, and cost its users nothing.
    from jaxtyping import install_import_hook

    install_import_hook("contrapose.core", "beartype.beartype")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # workers times threads would be more than the cores

WEIGHTS = "CONTRAPOSE_WEIGHTS"  # a folder of published weights


def pytest_configure() -> None:
    """Transformers tells once a class that torchvision is absent; no test needs it."""
    log = logging.getLogger("transformers.utils.import_utils")
    log.addFilter(lambda record: "requires torchvision" not in record.getMessage())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    weights = os.environ.get(WEIGHTS)
    missing = {
        "gpu": None if torch.cuda.is_available() else "no CUDA device",
        "weights": None if weights and Path(weights).is_dir() else f"{WEIGHTS} names no folder of weights",
    }
    for item in items:
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random StableDiffusionPipeline: latents [4, 8, 8], images 16x16, the shapes world's words."""
    return _save_tiny(tmp_path_factory.mktemp("tiny") / "eps", 0)


@pytest.fixture(scope="session")
def tiny_v_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with v-prediction and weights of its own."""
    return _save_tiny(tmp_path_factory.mktemp("tiny") / "v", 1, prediction_type="v_prediction")


@pytest.fixture(scope="session")
def wider_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline whose UNet is wider, so that nothing trained on `tiny_model` fits it."""
    return _save_tiny(tmp_path_factory.mktemp("tiny") / "wider", 2, widths=(16, 48))


def _save_tiny(folder: Path, seed: int, widths: tuple[int, int] = (16, 32), prediction_type: str = "epsilon") -> Path:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from contrapose.worlds.shapes.blueprint import TEXT_LENGTH, assemble, build_tokenizer

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=TEXT_LENGTH,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    blocks = {"norm_num_groups": 8, "layers_per_block": 1}
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=4,
        sample_size=16,
        **blocks,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=widths,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        **blocks,
    )
    pipe = assemble(vae, unet, text_encoder, tokenizer)
    # An untrained network's latents come out as large as 1 / a(T): with few betas they stay near 1.
    pipe.scheduler.register_to_config(prediction_type=prediction_type, beta_end=0.002)
    pipe.save_pretrained(folder)
    return folder


PROMPTS = (
    "a red circle above a blue square", "two green triangles", "a white star", "three red squares",
    "a blue circle left of a red star", "a green square", "one red circle and one blue star", "two yellow stars",
    "a purple triangle right of a green circle", "four white circles", "a yellow square below a red triangle",
    "three blue triangles",
)  # fmt: skip


@pytest.fixture(scope="session")
def prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen prompts of two or more words, one a line."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n")
    return path


@pytest.fixture(scope="session")
def tiny_pairs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, prompts_file: Path) -> Path:
    """Folder of a dozen pairs that `tiny_model` drew; copy it before changing it."""
    from contrapose.backbones.families import load_backbone
    from contrapose.curate.draw import Draw, draw_pairs, plan_pairs

    folder = tmp_path_factory.mktemp("pairs") / "tiny"
    draw = Draw(str(tiny_model), prompts_file, steps=2, shard_size=5)
    for _ in draw_pairs(draw, plan_pairs(draw), load_backbone(tiny_model), folder):
        pass
    return folder


@pytest.fixture
def write_store() -> Callable[..., Path]:
    """Write records and latents as a folder of pairs without any model."""

    def write(folder: Path, records: Sequence[Any], latents: dict[str, torch.Tensor], shard_size: int = 4) -> Path:
        import yaml

        from contrapose.pairs.store import MANIFEST, write_shard

        for index, first in enumerate(range(0, len(records), shard_size)):
            rows = slice(first, first + shard_size)
            write_shard(folder, index, records[rows], {name: value[rows] for name, value in latents.items()})
        shape = list(latents["winner"].shape[1:])
        (folder / MANIFEST).write_text(yaml.safe_dump({"num_pairs": len(records), "latent_shape": shape}))
        return folder

    return write
