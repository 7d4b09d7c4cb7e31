"""Normalized attention guidance on any pipeline: hooks in its attention, and nothing of it is copied.

    with contrapose.nag(pipe, negative_prompt="blurry", scale=5.0):
        images = pipe("a red cube on a blue sphere", guidance_scale=0).images

Every attention layer that reads the prompt is asked a second time for the negative one, on the same rows, and both
answers are combined before its output layer (`contrapose.core.guidance.NAG`). Where attention changes the text too, the
negative text runs through the blocks beside the prompt's, over the same image.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.models.normalization import AdaLayerNormZeroSingle
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from contrapose.backbones.families.table import family_of
from contrapose.backbones.family import Family
from contrapose.core.group import Condition
from contrapose.core.guidance import NAG
from contrapose.errors import UserError


@contextmanager
def nag(
    pipe: DiffusionPipeline,
    negative_prompt: str | None = None,
    scale: float = 5.0,
    tau: float = 2.5,
    alpha: float = 0.25,
) -> Iterator[DiffusionPipeline]:
    """Guide a pipeline's attention away from a negative prompt while the block lasts, with or without CFG.

    It acts on all rows of a batch: with CFG, those without a prompt stay as they are where neither is given a negative
    prompt and tau is at least 1. Where none is given, the network reads what it was trained to read for none (SDXL:
    zeros, and for "" the empty text); others are read as prompts are (SANA: behind its instruction). Goes together with
    `guide` by adapters; a whole network of `guide`'s is asked as it is. Raises `UserError` for settings out of range,
    for compiled networks, whose layers take no hooks, for IP-Adapters, and without text encoders.

    Differs from the authors' code: with CFG, theirs leaves the rows without a prompt alone. It can end before the last
    step (`nag_end`); this acts on every step. Its default alpha is 0.5 for UNets and 0.25 for FLUX; here 0.25.
    """
    guidance, family = NAG(scale, tau, alpha), family_of(pipe)
    network = getattr(pipe, family.denoiser_part)
    _check(pipe, network)
    negative = read_negative(pipe, family, negative_prompt)
    with attention_guided(network, family, negative, guidance):
        yield pipe


@contextmanager
def attention_guided(network: nn.Module, family: Family, negative: Condition, guidance: NAG) -> Iterator[None]:
    """A network whose attention is led away from a negative prompt, one row, as the pipeline would hand it over."""
    handles = [] if guidance.off else list(_HOOKS[family.attention](network, family, negative, guidance))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def read_negative(pipe: DiffusionPipeline, family: Family, prompt: str | None) -> Condition:
    """What the network reads of a negative prompt, one row, from the pipeline's own encoders where they are."""
    device = pipe._execution_device
    tokens = family.tokens(pipe, None)
    if prompt:
        return family.read(pipe, [prompt], device, tokens)
    return family.read_unconditional(pipe, prompt, device, tokens)


def _check(pipe: DiffusionPipeline, network: nn.Module) -> None:
    if any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in network.modules()):
        raise UserError("nag does not reach into a compiled network; use the pipeline without torch.compile")
    if getattr(network, "encoder_hid_proj", None) is not None:
        raise UserError("nag does not work beside an IP-Adapter; unload it")
    if pipe.text_encoder is None:
        raise UserError("nag reads its negative prompt itself, and this pipeline has no text encoder")


class _Contrast:
    """What a layer reads in the negative prompt, kept until it is combined with what it reads in the prompt."""

    def __init__(self, guidance: NAG):
        self.guidance, self.asking = guidance, False
        self.negative: Tensor | None = None

    def ask(self, layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The layer's answer to these inputs, of which `take` keeps what was attended to."""
        self.asking = True
        try:
            return layer.forward(*inputs, **named)
        finally:
            self.asking = False

    def take(self, attended: Tensor) -> Tensor:
        """Z-, or Z+ combined with the Z- before it."""
        if self.asking:
            self.negative = attended
            return attended
        assert self.negative is not None
        negative, self.negative = self.negative, None
        return self.guidance.combine(attended, negative)

    def before_output(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Hook before a layer's output projection."""
        return (self.take(inputs[0]), *inputs[1:])


def _for_rows(text: Tensor, like: Tensor) -> Tensor:
    """One row's text for every row of the layer's input."""
    return text.to(like.device, like.dtype).expand(len(like), -1, -1)


def _in_cross_attention(
    network: nn.Module, family: Family, negative: Condition, guidance: NAG
) -> Iterator[RemovableHandle]:
    """Hooks where the image's rows attend to the text alone."""
    text = negative["text"]

    def ask(contrast: _Contrast, layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        words = text.to(inputs[0].device, inputs[0].dtype)
        for name in ("caption_projection", "caption_norm"):  # the transformers read it through these
            words = words if getattr(network, name, None) is None else getattr(network, name)(words)
        words = _for_rows(words, inputs[0])
        contrast.ask(layer, inputs, named | {"encoder_hidden_states": words, "attention_mask": None})

    for name, layer in network.named_modules():
        if name.endswith(".attn2") and layer.is_cross_attention:
            contrast = _Contrast(guidance)
            yield layer.register_forward_pre_hook(partial(ask, contrast), with_kwargs=True)
            yield layer.to_out[0].register_forward_pre_hook(contrast.before_output)


def _in_joint_attention(
    network: nn.Module, family: Family, negative: Condition, guidance: NAG
) -> Iterator[RemovableHandle]:
    """Hooks where text and image attend to both: the negative text goes from block to block, the image is shared.

    Blocks scale and shift the negative text by its own pooled embedding, and the image by the prompt's in both passes.
    """
    text, pooled = negative["text"], negative["pooled"]
    stream = text
    negative_embedding = prompt_embedding = pooled  # of time and pooled text, before the first call
    blocks = [*network.transformer_blocks, *getattr(network, "single_transformer_blocks", ())]

    def embed_pooled(embedder: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        nonlocal negative_embedding
        *times, of_prompt = inputs
        negative_embedding = embedder.forward(*times, pooled.to(of_prompt.device, of_prompt.dtype).expand_as(of_prompt))

    def ask(contrast: _Contrast, block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal stream, prompt_embedding
        image, words = named["hidden_states"], named["encoder_hidden_states"]
        prompt_embedding = named["temb"]
        if block is blocks[0]:
            stream = _for_rows(network.context_embedder(text.to(image.device, image.dtype)), image)
            if "image_rotary_emb" in named and stream.shape[1] != words.shape[1]:
                raise UserError(f"nag needs the pipeline to read {stream.shape[1]} tokens (max_sequence_length)")
        stream, _ = contrast.ask(block, inputs, named | {"encoder_hidden_states": stream, "temb": negative_embedding})

    def for_image(contrast: _Contrast, norm: nn.Module, inputs: tuple[Tensor], _: Any, output: Any) -> Any:
        """The image scaled and shifted as beside the prompt, while the block is asked about the negative text."""
        if not contrast.asking:
            return output
        beside_prompt = norm.forward(*inputs, emb=prompt_embedding)
        if not isinstance(norm, AdaLayerNormZeroSingle):
            return beside_prompt
        # Text and image in one row, text first. The gate stays the text's: the image behind it is thrown away.
        row, gate = output
        length = text.shape[1]
        return torch.cat([row[:, :length], beside_prompt[0][:, length:]], 1), gate

    def after_joint(contrast: _Contrast, block: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        words, image = output[:, : text.shape[1]], output[:, text.shape[1] :]
        return torch.cat([words, contrast.take(image)], 1)

    yield network.time_text_embed.register_forward_hook(embed_pooled)
    for block in blocks:
        contrast = _Contrast(guidance)
        yield block.register_forward_pre_hook(partial(ask, contrast), with_kwargs=True)
        norm = getattr(block, "norm1", None) or block.norm
        yield norm.register_forward_hook(partial(for_image, contrast), with_kwargs=True)
        if hasattr(block.attn, "to_out"):
            yield block.attn.to_out[0].register_forward_pre_hook(contrast.before_output)
        else:  # single blocks have text and image in one row, text first, and no output layer of their own
            yield block.attn.register_forward_hook(partial(after_joint, contrast))


def _in_one_stream(network: nn.Module, family: Family, negative: Condition, guidance: NAG) -> Iterator[RemovableHandle]:
    """Hooks where image and text are one sequence, image first: the negative text stands where the prompt's does.

    The image keeps its places, and the negative text ends where the prompt ends, so that the image sees it from as far
    away as if it were the prompt.
    """
    text = negative["text"]
    text_alone = family.text_alone
    assert text_alone is not None, "what a family of one stream says"
    pixels = 0
    stream = text
    turns = text  # of the stream's places, as the network rotates them

    def note_image(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal pixels
        pixels = inputs[0].shape[1]

    def ask(contrast: _Contrast, block: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal stream, turns
        whole, mask, turned, *rest = inputs
        if block is network.layers[0]:
            lengths = torch.full((len(whole),), whole.shape[1], device=whole.device) if mask is None else mask.sum(1)
            stream, turns = text_alone(network, text, whole, lengths - pixels)
        swapped, places = torch.cat([whole[:, :pixels], stream], 1), torch.cat([turned[:, :pixels], turns], 1)
        stream = contrast.ask(block, (swapped, None, places, *rest), {})[:, pixels:]

    def combine(contrast: _Contrast, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        attended = inputs[0]
        return (torch.cat([contrast.take(attended[:, :pixels]), attended[:, pixels:]], 1), *inputs[1:])

    yield network.noise_refiner[0].register_forward_pre_hook(note_image)
    for block in network.layers:
        contrast = _Contrast(guidance)
        yield block.register_forward_pre_hook(partial(ask, contrast))
        yield block.attention.to_out[0].register_forward_pre_hook(partial(combine, contrast))


_HOOKS = {"cross": _in_cross_attention, "joint": _in_joint_attention, "single": _in_one_stream}
