"""Train the shapes model from nothing: an autoencoder on renders, a denoiser on careless captions.

About a quarter of the captions are wrong or incomplete, as captions of web images are, so that the finished model knows
more than it shows: its score rises with classifier-free guidance, and alignment has something to amplify. Every phase
saves itself and carries on where it was stopped.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from contrapose import runfile
from contrapose.files import one_writer
from contrapose.pixels import to_tensor
from contrapose.runs.training_state import Moments, Stateful, Weights, load_training, save_training
from contrapose.tensors import save_tensors
from contrapose.worlds.shapes import blueprint
from contrapose.worlds.shapes.render import render
from contrapose.worlds.shapes.scenes import caption, scene_of, training_meaning
from contrapose.worlds.shapes.settings import Pretraining

SETTINGS = "pretraining.yaml"


@dataclass(frozen=True)
class Progress:
    """Where a phase stands; one is yielded every few steps."""

    step: int
    metrics: dict[str, float]


class Phase(NamedTuple):
    """A part of the pretraining, which goes on as its states are asked for."""

    title: str
    total: int
    states: Iterator[Progress]


def pretrain_shapes(settings: Pretraining, out: Path) -> Iterator[Phase]:
    """The three phases of training the shapes model from nothing, each to be run through before the next is asked for.

    Run it again to carry on. `out/model` is a stock pipeline folder at each save. Raises `UserError` for a folder of
    other settings, or that another command is writing.
    """
    with one_writer(out):
        runfile.claim(out / SETTINGS, settings, runfile.converter(), free=["save_every"])
        yield Phase("training the autoencoder", settings.vae_steps, train_vae(settings, out))
        yield Phase("rendering and encoding", settings.num_images, encode_dataset(settings, out))
        yield Phase("training the denoiser", settings.train_steps, train_denoiser(settings, out))


def _schedule(step: int, total: int, warmup: int) -> float:
    """Linear warm-up, then a cosine to 2 % of the peak."""
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(total - warmup, 1)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def draw_example(seed: int, index: int, carelessness: float) -> tuple[np.ndarray, str]:
    """Training image number `index`, [64, 64, 3], and its caption."""
    rng = np.random.default_rng([seed, index])
    meaning = training_meaning(rng)
    image = render(scene_of(meaning, rng))
    return image, caption(meaning, rng, carelessness)


def _channels_last(images: np.ndarray) -> Tensor:
    """uint8 [b, h, w, 3] to float [b, 3, h, w] in -1..1."""
    return to_tensor(images).contiguous(memory_format=torch.channels_last)


def _lay_out(module: nn.Module) -> None:
    """Keep a module's convolutions with the channels last, as they are faster on a CPU."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's overloads lack this one


def train_vae(settings: Pretraining, out: Path) -> Iterator[Progress]:
    """Fit the autoencoder on renders; writes `out/vae` when done."""
    if (out / "vae").exists():
        return
    torch.manual_seed(settings.seed)
    vae = blueprint.build_vae()
    _lay_out(vae)
    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=settings.vae_learning_rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True
    )
    work = out / "work" / "vae.safetensors"
    parts: dict[str, Stateful] = {"vae": Weights(list(vae.parameters())), "optimizer": Moments(optimizer)}
    start = load_training(work, None, **parts) if work.exists() else 0
    for step in range(start, settings.vae_steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.vae_learning_rate * _schedule(step, settings.vae_steps, 50)
        indices = range(step * settings.vae_batch_size, (step + 1) * settings.vae_batch_size)
        # never the same render twice, and none of the denoiser's, which are drawn by the seed itself
        images = np.stack([draw_example(settings.seed + 1, i, 0.0)[0] for i in indices])
        pixels = _channels_last(images)
        # by seed and step alone, so that a run that was stopped goes on with the noise it would have had
        noise = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
            recon = vae.decode(posterior.sample(generator=noise)).sample.float()
        mse = F.mse_loss(recon, pixels)
        # kl() sums over a latent's elements, while the weight is stated for one
        divergence = settings.kl_weight * posterior.kl().mean() / posterior.mean[0].numel()
        # squared errors alone leave edges soft; the absolute ones pull at small errors too
        loss = mse + 0.1 * F.l1_loss(recon, pixels) + divergence
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 20 == 0:
            yield Progress(step + 1, {"loss": mse.item()})
        if settings.saves_after(step):
            save_training(work, step + 1, None, **parts)
    _save_vae(vae.eval(), settings, out / "vae")


def _save_vae(vae: AutoencoderKL, settings: Pretraining, folder: Path) -> None:
    """Record the latents' scale (1 / standard deviation, as Stable Diffusion does) and write the folder at once."""
    images = np.stack([draw_example(settings.seed + 2, i, 0.0)[0] for i in range(256)])
    with torch.no_grad():
        deviation = vae.encode(_channels_last(images)).latent_dist.mean.std().item()
    vae.register_to_config(scaling_factor=round(1 / deviation, 5))
    # a folder of this name is a finished phase, so it appears only when all of it is written
    aside = folder.with_name("vae.partial")
    vae.save_pretrained(aside)
    aside.rename(folder)


def encode_dataset(settings: Pretraining, out: Path) -> Iterator[Progress]:
    """Render, caption and encode the training images once; writes `dataset.safetensors` among the work in progress."""
    path = out / "work" / "dataset.safetensors"
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKL.from_pretrained(out / "vae")
    _lay_out(vae)
    tokenizer = blueprint.build_tokenizer()
    latents: list[Tensor] = []
    tokens: list[Tensor] = []
    size = 100
    for first in range(0, settings.num_images, size):
        examples = [draw_example(settings.seed, i, settings.carelessness) for i in range(first, first + size)]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            # the mean, not a sample: one latent an image serves all steps
            mean = vae.encode(_channels_last(np.stack([image for image, _ in examples]))).latent_dist.mean
        latents.append((mean.float() * vae.config.scaling_factor).half())
        tokens.append(_tokenise(tokenizer, [text for _, text in examples]))
        if first % 1000 == 0:
            yield Progress(first + size, {})
    save_tensors(path, {"latents": torch.cat(latents), "tokens": torch.cat(tokens)})


def _tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    tokens: Tensor = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return tokens


@torch.no_grad()
def _average(ema: nn.Module, live: nn.Module, decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * live, for all parameters in one call."""
    torch._foreach_lerp_(list(ema.parameters()), list(live.parameters()), 1 - decay)


def train_denoiser(settings: Pretraining, out: Path) -> Iterator[Progress]:
    """Fit UNet and text encoder together on the careless captions; writes the pipeline at every save."""
    torch.manual_seed(settings.seed)
    tokenizer = blueprint.build_tokenizer()
    unet = blueprint.build_unet()
    text_encoder = blueprint.build_text_encoder(tokenizer)
    # Twice as fast as fused attention here: its backward is slow for 64 tokens on a CPU.
    unet.set_attn_processor(AttnProcessor())
    model = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    _lay_out(model)
    model.train()
    ema = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=1e-2, fused=True
    )
    work = out / "work" / "denoiser.safetensors"
    parts: dict[str, Stateful] = {
        "model": Weights(list(model.parameters())),
        "ema": Weights(list(ema.parameters())),
        "optimizer": Moments(optimizer),
    }
    start = load_training(work, None, **parts) if work.exists() else 0
    data = load_file(out / "work" / "dataset.safetensors")
    abar = blueprint.build_scheduler().alphas_cumprod
    empty = _tokenise(tokenizer, [""])[0]
    for step in range(start, settings.train_steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(step, settings.train_steps, settings.warmup)
        loss = _denoiser_loss(model, data, empty, abar, settings, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        # a short memory at first, or the average would long remember the random weights it began with
        _average(ema, model, min(settings.ema_decay, (1 + step) / (10 + step)))
        if (step + 1) % 20 == 0:
            yield Progress(step + 1, {"loss": loss.item()})
        if settings.saves_after(step) or step + 1 == settings.train_steps:
            save_training(work, step + 1, None, **parts)
            publish(out, ema)


def _denoiser_loss(
    model: nn.ModuleDict, data: dict[str, Tensor], empty: Tensor, abar: Tensor, settings: Pretraining, step: int
) -> Tensor:
    """Noise-prediction error with Min-SNR weights; every random choice depends on (seed, step) alone."""
    random = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    rows = torch.randint(len(data["latents"]), (settings.batch_size,), generator=random)
    x0 = data["latents"][rows].float()
    tokens = data["tokens"][rows].clone()
    tokens[torch.rand(settings.batch_size, generator=random) < settings.caption_dropout] = empty
    t = torch.randint(len(abar), (settings.batch_size,), generator=random)
    eps = torch.randn(x0.shape, generator=random)
    a = abar[t].view(-1, 1, 1, 1)
    x_t = (a.sqrt() * x0 + (1 - a).sqrt() * eps).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        condition = model["text_encoder"](tokens).last_hidden_state
        predicted = model["unet"](x_t, t, condition).sample
    # weights below 1 damp nearly clean steps, where a large error of the noise is a small one of the image
    snr = abar[t] / (1 - abar[t])
    weight = snr.clamp(max=settings.snr_gamma) / snr
    return (weight * (predicted.float() - eps).pow(2).mean(dim=(1, 2, 3))).mean()


def publish(out: Path, ema: nn.ModuleDict) -> None:
    """Write the averaged weights as a half-precision pipeline folder, `out/model`."""
    # fresh parts: the pipeline is cast in place, and training goes on with the average as it is
    tokenizer = blueprint.build_tokenizer()
    unet = blueprint.build_unet()
    text_encoder = blueprint.build_text_encoder(tokenizer)
    unet.load_state_dict(ema["unet"].state_dict())
    text_encoder.load_state_dict(ema["text_encoder"].state_dict())
    vae = AutoencoderKL.from_pretrained(out / "vae")
    vae.register_to_config(_name_or_path="")  # else a path of this machine would be shipped
    pipe = blueprint.assemble(vae, unet, text_encoder, tokenizer)
    pipe.to(torch.float16).save_pretrained(out / "model")
    # diffusers loads float32 unless told otherwise, transformers what the config names: make the two agree.
    config = out / "model" / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
