"""The shapes model's parts, untrained: a standard StableDiffusionPipeline in miniature."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from contrapose.worlds.shapes.grammar import BAD_LOOKS, GOOD_LOOKS, TAGS, canonical_meanings
from contrapose.worlds.shapes.render import IMAGE_SIZE

LATENT_CHANNELS = 8
TEXT_WIDTH = 96
TEXT_LENGTH = 24  # tokens the encoder reads; the longest caption of the grammar takes 16
START = "<|startoftext|>"
END = "<|endoftext|>"


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer whose every grammar word is one token; any other text falls back to characters."""
    words = {*GOOD_LOOKS, *BAD_LOOKS}
    for tag in TAGS:
        for meaning in canonical_meanings(tag):
            words.update(" ".join(meaning.wordings()).split())
    merges = learn_merges(sorted(words))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Every letter, inside a word and at its end, is a piece of its own, so that no text is unknown.
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    pieces += ["".join(merge) for merge in merges]
    pieces += [START, END]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(
        vocab=vocab,
        merges=merges,  # type: ignore[arg-type]  # handed on to tokenizers' BPE, which wants pairs
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=TEXT_LENGTH,
    )


def learn_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, the most frequent first, until every word is one piece.

    The tokenizers library leaves ties to chance, and so the numbers of words; here they go to the alphabet.
    """
    split = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for pieces in split for pair in itertools.pairwise(pieces)):
        # not Counter.most_common, whose ties go by the order of counting
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        split = [_merged(pieces, best) for pieces in split]
    return merges


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """A word's pieces with every occurrence of the pair joined, from left to right."""
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of CLIP's text transformer, with random weights."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_vae() -> AutoencoderKL:
    """An autoencoder from 64 x 64 pixels to latents [8, 8, 8], with random weights."""
    return AutoencoderKL(
        # four blocks halve the sides three times, as Stable Diffusion's do
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
    )


def build_unet() -> UNet2DConditionModel:
    """A denoiser of these latents that reads the text by cross-attention, with random weights."""
    return UNet2DConditionModel(
        sample_size=IMAGE_SIZE // 8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(96, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_scheduler() -> DPMSolverMultistepScheduler:
    """DDPM's linear betas: an 8x8 latent still shows its signal at SD's own last noise level."""
    return DPMSolverMultistepScheduler(
        beta_schedule="linear", beta_start=1e-4, beta_end=0.02, timestep_spacing="trailing", steps_offset=1
    )


def assemble(
    vae: AutoencoderKL, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """The parts as one stock pipeline, without the safety checker, which would judge photographs."""
    # diffusers annotates the scheduler by an enumeration of schedulers' names, and as required what it takes as None
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),  # type: ignore[arg-type]  # see above
        safety_checker=None,  # type: ignore[arg-type]  # see above
        feature_extractor=None,  # type: ignore[arg-type]  # see above
        requires_safety_checker=False,
    )
