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
from diffusers.models.normalization import AdaLayerNormZeroSingle
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from contrapose.backbones.families.table import family_of
from contrapose.backbones.family import Family
from contrapose.core.group import Condition
from contrapose.core.guidance import NAG
from contrapose.errors import UserError
from contrapose.guiding.row_adapters import is_compiled
from contrapose.guiding.rows import Call


@contextmanager
def nag(
    pipe: DiffusionPipeline,
    negative_prompt: str | None = None,
    scale: float = 5.0,
    tau: float = 2.5,
    alpha: float = 0.25,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Iterator[DiffusionPipeline]:
    """Guide a pipeline's attention away from a negative prompt while the block lasts, with or without CFG.

    Acts on every row, at the noise levels of `interval`, 0 data to 1 noise; outside it a step is the stock one. Under
    CFG the unconditional rows are unchanged if neither CFG nor NAG has a negative prompt and tau >= 1. Without a
    negative prompt the network reads what it was trained to read as "no prompt" (which need not be the empty text "");
    any other negative prompt is read as a prompt is. `guide` by adapters may be combined with it; whole networks of
    `guide` are not led by NAG.

    Raises `UserError` for settings out of range, for compiled networks, whose layers take no hooks, for IP-Adapters,
    and for pipelines without text encoders.

    Differs from the authors' code: with CFG, theirs leaves the rows without a prompt alone. It can end before the last
    step (`nag_end`), by the share of training times; here the interval has two ends, in noise levels. Its default
    alpha is 0.5 for UNets and 0.25 for FLUX; here 0.25.
    """
    guidance = NAG(scale, tau, alpha, interval)
    family = family_of(pipe)
    network = getattr(pipe, family.denoiser_part)
    _check(pipe, network)
    negative = read_negative(pipe, family, negative_prompt)
    with attention_guided(network, family, negative, guidance):
        yield pipe


@contextmanager
def attention_guided(network: nn.Module, family: Family, negative: Condition, guidance: NAG) -> Iterator[None]:
    """A block in which a network's attention is led away from a negative prompt.

    `negative` is one row of the family's text, as the pipeline passes it to the network. Raises `UserError` for a
    family whose attention cannot be led.
    """
    if family.attention is None:
        raise UserError(f"nag does not lead the attention of a {type(network).__name__}; guide it by --guidance-scale")
    if guidance.off:
        yield
        return
    led = _Led(network, family, negative, guidance)
    switch: RemovableHandle | None = None
    if guidance.interval == (0.0, 1.0):
        # at every step, so that no step's time has to be read from its device
        led.turn(True)
    else:
        switch = network.register_forward_pre_hook(led.look_at_time, with_kwargs=True)
    try:
        yield
    finally:
        led.turn(False)
        if switch is not None:
            switch.remove()


class _Led:
    """A network whose layers have the hooks of attention guidance while it is on."""

    def __init__(self, network: nn.Module, family: Family, negative: Condition, guidance: NAG):
        self.network = network
        self.family = family
        self.negative = negative
        self.guidance = guidance
        self.handles: list[RemovableHandle] = []

    def look_at_time(self, network: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Hook before the network's forward: on inside the interval of noise levels, off outside."""
        level = self.family.level_of(Call(inputs, named, self.family.rowless).time, network.config)
        self.turn(self.guidance.acts_at(level))

    def turn(self, on: bool) -> None:
        """Put the hooks on where there are none, or take them off."""
        if on and not self.handles:
            assert self.family.attention is not None, "told before"
            self.handles += _HOOKS[self.family.attention](self.network, self.family, self.negative, self.guidance)
        elif not on:
            for handle in self.handles:
                handle.remove()
            self.handles.clear()


@torch.no_grad()
def read_negative(pipe: DiffusionPipeline, family: Family, prompt: str | None) -> Condition:
    """A negative prompt as the network reads it, one row, by the pipeline's own encoders on their device."""
    # under offloading this is where the encoders will run, which diffusers tells nowhere else
    device = pipe._execution_device  # type: ignore[attr-defined]
    tokens = family.tokens(pipe, None)
    if prompt:
        return family.read(pipe, [prompt], device, tokens)
    return family.read_unconditional(pipe, prompt, device, tokens)


def _check(pipe: DiffusionPipeline, network: nn.Module) -> None:
    """Raise `UserError` for pipelines whose attention the hooks would not see."""
    if is_compiled(network):
        raise UserError("nag does not reach into a compiled network; use the pipeline without torch.compile")
    if getattr(network, "encoder_hid_proj", None) is not None:
        raise UserError("nag does not work beside an IP-Adapter; unload it")
    # every pipeline of a family has one; diffusers' types do not say so
    if pipe.text_encoder is None:  # type: ignore[attr-defined]
        raise UserError("nag reads its negative prompt itself, and this pipeline has no text encoder")


class _Contrast:
    """One layer's Z-, its attention to the negative prompt, kept until the layer has Z+ and both are combined.

    A layer runs twice: first by `ask` with the negative text, in which `take` notes Z-; then as the network calls it,
    with the prompt, in which `take` puts the guided attention in place of Z+.
    """

    def __init__(self, guidance: NAG):
        self.guidance = guidance
        self.asking = False
        self.negative: Tensor | None = None

    def ask(self, layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The layer's output for these inputs, in which `take` keeps the attention."""
        self.asking = True
        try:
            # `forward`, as calling the layer would run the hook that asks
            return layer.forward(*inputs, **named)
        finally:
            self.asking = False

    def take(self, attended: Tensor) -> Tensor:
        """Note Z- and return it, or combine Z+ with the Z- noted before, by the formula of `NAG`."""
        if self.asking:
            self.negative = attended
            return attended
        assert self.negative is not None
        negative = self.negative
        # a Z- is used once, so that one of an earlier step can never stand in
        self.negative = None
        return self.guidance.combine(attended, negative)

    def before_output(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Hook before a layer's output projection: NAG acts on the attention, Z, and not on the layer's output."""
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
        # transformers project and norm the prompt's text before their blocks; the negative one has to follow
        for name in ("caption_projection", "caption_norm"):
            projection = getattr(network, name, None)
            if projection is not None:
                words = projection(words)
        words = _for_rows(words, inputs[0])
        # the mask fits the length of the prompt; a single negative text needs none
        contrast.ask(layer, inputs, named | {"encoder_hidden_states": words, "attention_mask": None})

    for name, layer in network.named_modules():
        if name.endswith(".attn2") and layer.is_cross_attention:
            contrast = _Contrast(guidance)
            yield layer.register_forward_pre_hook(partial(ask, contrast), with_kwargs=True)
            yield layer.to_out[0].register_forward_pre_hook(contrast.before_output)


def _in_joint_attention(
    network: nn.Module, family: Family, negative: Condition, guidance: NAG
) -> Iterator[RemovableHandle]:
    """Hooks where text and image attend to each other: the negative text runs from block to block, the image is shared.

    Blocks scale and shift the negative text by its own pooled embedding, and the image by the prompt's in both passes.
    """
    text = negative["text"]
    pooled = negative["pooled"]
    stream = text  # the negative text on its way through the blocks
    negative_embedding = prompt_embedding = pooled  # of time and pooled text; any tensor before the first call
    joint: Any = network  # a transformer whose parts are named as diffusers' are
    blocks = [*joint.transformer_blocks, *getattr(network, "single_transformer_blocks", ())]

    def embed_pooled(embedder: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        nonlocal negative_embedding
        *times, of_prompt = inputs
        negative_embedding = embedder.forward(*times, pooled.to(of_prompt.device, of_prompt.dtype).expand_as(of_prompt))

    def ask(contrast: _Contrast, block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal stream, prompt_embedding
        image = named["hidden_states"]
        prompt_embedding = named["temb"]
        if block is blocks[0]:
            stream = _for_rows(joint.context_embedder(text.to(image.device, image.dtype)), image)
            # rotations are made for the prompt's length, and have to fit the negative text
            if "image_rotary_emb" in named and stream.shape[1] != named["encoder_hidden_states"].shape[1]:
                raise UserError(f"nag needs the pipeline to read {stream.shape[1]} tokens (max_sequence_length)")
        # the image that comes with it is thrown away: the next block reads the one beside the prompt
        stream, _ = contrast.ask(block, inputs, named | {"encoder_hidden_states": stream, "temb": negative_embedding})

    def for_image(contrast: _Contrast, norm: nn.Module, inputs: tuple[Tensor], _: Any, output: Any) -> Any:
        """The image scaled and shifted by the prompt's embedding, while the block runs with the negative text."""
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
        length = text.shape[1]
        return torch.cat([output[:, :length], contrast.take(output[:, length:])], 1)

    # in the order of a forward: the embeddings, then in each block the negative text before the prompt's
    yield joint.time_text_embed.register_forward_hook(embed_pooled)
    for block in blocks:
        contrast = _Contrast(guidance)
        yield block.register_forward_pre_hook(partial(ask, contrast), with_kwargs=True)
        norm = getattr(block, "norm1", None) or block.norm
        yield norm.register_forward_hook(partial(for_image, contrast), with_kwargs=True)
        if hasattr(block.attn, "to_out"):
            yield block.attn.to_out[0].register_forward_pre_hook(contrast.before_output)
        else:  # single blocks have text and image in one row, text first, and no output layer of their own
            yield block.attn.register_forward_hook(partial(after_joint, contrast))


def _in_two_streams(
    network: nn.Module, family: Family, negative: Condition, guidance: NAG
) -> Iterator[RemovableHandle]:
    """Hooks where text and image attend to each other, and nothing else of the text reaches the image.

    The negative text runs from block to block over the same image, with places of its own behind the image's.
    """
    text = negative["text"]
    stream = text  # the negative text on its way through the blocks
    places: Any = None  # rotations of the image and of the negative text
    double: Any = network  # a transformer whose parts are named as diffusers' are

    def place(embedder: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], _: Any) -> None:
        nonlocal places
        places = embedder.forward(*inputs, **named | {"max_txt_seq_len": text.shape[1]})

    def ask(contrast: _Contrast, block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal stream
        image = named["hidden_states"]
        if block is double.transformer_blocks[0]:
            stream = double.txt_in(double.txt_norm(_for_rows(text, image)))
        # the mask fits the length of the prompt; a single negative text needs none
        beside = {"encoder_hidden_states": stream, "encoder_hidden_states_mask": None, "image_rotary_emb": places}
        stream, _ = contrast.ask(block, inputs, named | beside)

    yield double.pos_embed.register_forward_hook(place, with_kwargs=True)
    for block in double.transformer_blocks:
        contrast = _Contrast(guidance)
        yield block.register_forward_pre_hook(partial(ask, contrast), with_kwargs=True)
        yield block.attn.to_out[0].register_forward_pre_hook(contrast.before_output)


def _in_one_stream(network: nn.Module, family: Family, negative: Condition, guidance: NAG) -> Iterator[RemovableHandle]:
    """Hooks where image and text are one sequence, image first: the negative text stands where the prompt's does.

    The image keeps its places, and the negative text ends where the prompt ends, so that the image sees it from as far
    away as if it were the prompt.
    """
    text = negative["text"]
    text_alone = family.text_alone
    assert text_alone is not None, "what a family of one stream says"
    pixels = 0
    single: Any = network  # a transformer whose parts are named as diffusers' are
    stream = text  # the negative text on its way through the blocks
    turns = text  # of the stream's places, as the network rotates them

    def note_image(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal pixels
        pixels = inputs[0].shape[1]

    def ask(contrast: _Contrast, block: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal stream, turns
        sequence, mask, turned, *rest = inputs
        if block is single.layers[0]:
            # the prompt's text ends where the sequence does, or where its mask does
            if mask is None:
                lengths = torch.full((len(sequence),), sequence.shape[1], device=sequence.device)
            else:
                lengths = mask.sum(1)
            stream, turns = text_alone(network, text, sequence, lengths - pixels)
        swapped = torch.cat([sequence[:, :pixels], stream], 1)
        places = torch.cat([turned[:, :pixels], turns], 1)
        stream = contrast.ask(block, (swapped, None, places, *rest), {})[:, pixels:]

    def combine(contrast: _Contrast, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        attended = inputs[0]
        return (torch.cat([contrast.take(attended[:, :pixels]), attended[:, pixels:]], 1), *inputs[1:])

    # the refiner has the image alone, by which its length is known before the blocks
    yield single.noise_refiner[0].register_forward_pre_hook(note_image)
    for block in single.layers:
        contrast = _Contrast(guidance)
        yield block.register_forward_pre_hook(partial(ask, contrast))
        yield block.attention.to_out[0].register_forward_pre_hook(partial(combine, contrast))


_HOOKS = {
    "cross": _in_cross_attention,
    "joint": _in_joint_attention,
    "streams": _in_two_streams,
    "single": _in_one_stream,
}
