"""Train the shapes model: an autoencoder on renders, a denoiser on careless captions.

About a quarter of the captions are wrong or incomplete, as captions of web images are, so that the finished model knows
more than it shows: its score rises with classifier-free guidance, and alignment has something to amplify. Most images
look mediocre or bad, and most captions do not say so; guidance leaves that as it is. Every phase saves itself and
carries on where it was stopped.
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
from contrapose.runs.silence import silent_libraries
from contrapose.runs.training_state import Moments, Stateful, Weights, load_training, save_training
from contrapose.tensors import save_tensors
from contrapose.worlds.shapes import blueprint
from contrapose.worlds.shapes.beginning import initial_denoiser, initial_vae, start_folder
from contrapose.worlds.shapes.latents import LATENT_NOISE, follow, whiten
from contrapose.worlds.shapes.looks import backdrop, draw_lead_ins, draw_looks, draw_quality
from contrapose.worlds.shapes.render import render
from contrapose.worlds.shapes.scenes import PRETRAINED, caption, scene_of, training_meaning
from contrapose.worlds.shapes.settings import Pretraining

SETTINGS = "pretraining.yaml"
TOKENIZER = "tokenizer"

_LEAST_SNR = 0.003
_DECAY = 0.2  # of the denoiser's steps


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
    """The three phases of training a shapes model, each to be run through before the next is asked for.

    Run it again to carry on. `out/model` is a stock pipeline folder at each save. Raises `UserError` for a folder of
    other settings, or that another command is writing, and for a start that is no pipeline.
    """
    if settings.start:
        start_folder(settings.start)
    with one_writer(out), silent_libraries():
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


def draw_example(seed: int, index: int, carelessness: float, exaggeration: float = 1.0) -> tuple[np.ndarray, str]:
    """Training image number `index`, [64, 64, 3], and its caption; what spoils its looks can be exaggerated."""
    rng = np.random.default_rng([seed, index])
    meaning = training_meaning(rng, PRETRAINED)
    scene = scene_of(meaning, rng)
    quality = draw_quality(rng)
    looks = draw_looks(1.0 - exaggeration * (1.0 - quality), scene, rng)
    image = render(scene, backdrop=backdrop(looks))
    return image, caption(meaning, rng, carelessness, draw_lead_ins(quality, rng))


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
    vae = initial_vae(settings.start)
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
        # every other one exaggerated, since faint tints alone would long be overlooked
        images = np.stack([draw_example(settings.seed + 1, i, 0.0, 1.0 + 2.0 * (i % 2))[0] for i in indices])
        pixels = _channels_last(images)
        # by seed and step alone, so that a run that was stopped goes on with the noise it would have had
        noise = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        latents = vae.encode(pixels).latent_dist.mean
        recon = vae.decode(latents + LATENT_NOISE * torch.randn(latents.shape, generator=noise)).sample
        mse = F.mse_loss(recon, pixels)
        # the divergence of a normal of this variance from the standard one, but for what does not change
        divergence = settings.kl_weight * 0.5 * latents.pow(2).mean()
        # squared errors alone leave edges soft: the absolute ones pull at small errors too; and they long overlook a
        # faint background, whose error is what is left when edges are averaged away
        coarse = F.mse_loss(F.avg_pool2d(recon, 8), F.avg_pool2d(pixels, 8))
        loss = mse + 0.1 * F.l1_loss(recon, pixels) + 8.0 * coarse + divergence
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
    """Give the latents the basis that the denoiser is to read, and write the folder at once."""
    if settings.start:
        former = initial_vae(settings.start)
        # clean ones, since a model of an earlier world knows no others
        follow(vae, former, _renders(settings, exaggeration=0.0))
        vae.register_to_config(scaling_factor=former.config["scaling_factor"])
    else:
        whiten(vae, _renders(settings))
        vae.register_to_config(scaling_factor=1.0)
    # a folder of this name is a finished phase, so it appears only when all of it is written
    aside = folder.with_name("vae.partial")
    vae.save_pretrained(aside)
    aside.rename(folder)


def _renders(settings: Pretraining, exaggeration: float = 1.0) -> np.ndarray:
    """Images [n, 64, 64, 3] that training does not show."""
    num = min(settings.num_images, 1000)
    return np.stack([draw_example(settings.seed + 2, index, 0.0, exaggeration)[0] for index in range(num)])


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
        numbers = range(first, min(first + size, settings.num_images))
        examples = [draw_example(settings.seed, number, settings.carelessness) for number in numbers]
        with torch.no_grad():
            # the mean, not a sample: one latent an image serves all steps
            mean = vae.encode(_channels_last(np.stack([image for image, _ in examples]))).latent_dist.mean
        latents.append((mean * vae.config.scaling_factor).half())
        tokens.append(_tokenise(tokenizer, [text for _, text in examples]))
        if first % 1000 == 0:
            yield Progress(numbers.stop, {})
    tokenizer.save_pretrained(out / TOKENIZER)
    save_tensors(path, {"latents": torch.cat(latents), "tokens": torch.cat(tokens)})


def _tokenizer(out: Path) -> CLIPTokenizer:
    """The tokenizer by whose numbers the training captions were written."""
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(out / TOKENIZER)
    return tokenizer


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
    tokenizer = _tokenizer(out)
    unet, text_encoder = initial_denoiser(settings.start, tokenizer)
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
        # up, level, and down over the last fifth, before which a run of more steps is the same
        left = (settings.train_steps - step) / (_DECAY * settings.train_steps)
        share = min(1.0, (step + 1) / max(settings.warmup, 1), left)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * share
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
    """The velocity's squared error at noise levels of normal logarithms (EDM, Karras et al. 2022, section 5).

    The model predicts the noise, whose error times (1 + snr) / snr is the velocity's. At times drawn evenly, as DDPM's
    are, half of all steps would show the model noise in which nothing of the scene can be seen. Every random choice
    depends on (seed, step) alone.
    """
    random = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    rows = torch.randint(len(data["latents"]), (settings.batch_size,), generator=random)
    x0 = data["latents"][rows].float()
    tokens = data["tokens"][rows].clone()
    tokens[torch.rand(settings.batch_size, generator=random) < settings.caption_dropout] = empty
    levels = settings.log_snr_mean + settings.log_snr_spread * torch.randn(settings.batch_size, generator=random)
    # the schedule's times whose levels lie nearest
    t = (torch.logit(abar) - levels[:, None]).abs().argmin(dim=1)
    eps = torch.randn(x0.shape, generator=random)
    a = abar[t].view(-1, 1, 1, 1)
    x_t = (a.sqrt() * x0 + (1 - a).sqrt() * eps).contiguous(memory_format=torch.channels_last)
    condition = model["text_encoder"](tokens).last_hidden_state
    predicted = model["unet"](x_t, t, condition).sample
    snr = abar[t] / (1 - abar[t])
    # where next to no signal is left, the smallest error of the noise would outweigh all else
    weight = 1 + 1 / snr.clamp(min=_LEAST_SNR)
    return (weight * (predicted - eps).pow(2).mean(dim=(1, 2, 3))).mean()


def publish(out: Path, ema: nn.ModuleDict) -> None:
    """Write the averaged weights as a half-precision pipeline folder, `out/model`."""
    # fresh parts: the pipeline is cast in place, and training goes on with the average as it is
    tokenizer = _tokenizer(out)
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
