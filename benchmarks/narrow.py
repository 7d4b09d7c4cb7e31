"""A narrow Stable Diffusion 1.5 with random weights, its pairs, and a table printer: what both benchmarks stand on.

Same blocks, heads, text length and text width as SD1.5; channels about a third, so that a CPU core finishes in minutes.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from contrapose.backbones.base import Backbone
from contrapose.store.manifest import FORMAT, MANIFEST
from contrapose.store.records import GroupRecord
from contrapose.store.shard_files import write_shard
from contrapose.worlds.shapes.blueprint import assemble, build_tokenizer

TEXT_WIDTH, TEXT_LENGTH = 768, 77


def options(abstract: str) -> argparse.ArgumentParser:
    """The options that both benchmarks share."""
    parser = argparse.ArgumentParser(description=abstract, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a toy network: shows that the benchmark runs, no more")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--repeats", type=int, default=5, help="repeats of each side, taken in turn")
    return parser


def save_pipeline(folder: Path, tiny: bool) -> Path:
    """Write the random pipeline as a stock diffusers folder (110 M denoiser parameters, or a toy of 0.5 M)."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    tokenizer.model_max_length = TEXT_LENGTH
    assemble(_vae(tiny), _unet(tiny), _text_encoder(tokenizer, tiny), tokenizer).save_pretrained(folder)
    return folder


def _unet(tiny: bool) -> UNet2DConditionModel:
    if not tiny:
        return UNet2DConditionModel(
            sample_size=32,
            block_out_channels=(112, 224, 448, 448),
            norm_num_groups=16,
            attention_head_dim=8,
            cross_attention_dim=TEXT_WIDTH,
        )
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=2,
        cross_attention_dim=TEXT_WIDTH,
    )


def _vae(tiny: bool) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4 if tiny else (48, 96, 192, 192),
        layers_per_block=1 if tiny else 2,
        latent_channels=4,
        norm_num_groups=8 if tiny else 16,
        sample_size=64 if tiny else 256,
    )


def _text_encoder(tokenizer: CLIPTokenizer, tiny: bool) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=TEXT_WIDTH if tiny else 4 * TEXT_WIDTH,
            num_hidden_layers=1 if tiny else 4,
            num_attention_heads=12,
            max_position_embeddings=TEXT_LENGTH,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def prompts(count: int) -> list[str]:
    """That many distinct prompts of a dozen words."""
    colours, things = ("red", "green", "blue", "white"), ("cube", "ball", "ring", "cone")
    scenes = itertools.product(colours, things, colours, things)
    return [f"a small {a} {b} to the left of a large {c} {d}" for a, b, c, d in itertools.islice(scenes, count)]


def save_pairs(folder: Path, backbone: Backbone, count: int = 16) -> Path:
    """Write pairs of random latents; a training step costs the same on them."""
    shape = (count, *backbone.images.latent_shape)
    records = [GroupRecord.pair(str(i), text, text.rpartition(" to ")[0], i) for i, text in enumerate(prompts(count))]
    write_shard(folder, 0, records, torch.stack([torch.randn(shape), torch.randn(shape)], 1))
    told = {"format": FORMAT, "fingerprint": backbone.fingerprint, "num_groups": count}
    (folder / MANIFEST).write_text(yaml.safe_dump(told), encoding="utf-8")
    return folder


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table that is Markdown too."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
