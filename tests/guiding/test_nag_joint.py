"""NAG where text and image attend to both (SD3, FLUX), against both of its passes written out block by block."""

from __future__ import annotations

from typing import Any, NamedTuple

import families
import stock
import torch
from diffusers import DiffusionPipeline
from pytest import fixture
from torch import Tensor, nn

import contrapose

PROMPT, NEGATIVE = stock.PROMPTS
SCALE, TAU, ALPHA = 3.0, 1.01, 0.4
Turns = dict[str, Any]  # FLUX's rotations of places


@fixture(params=families.names(attention="joint"))
def name(request):
    return request.param


class Words(NamedTuple):
    """A text [1, l, d] as it goes from block to block, and the embedding of time and its pooled output."""

    text: Tensor
    embedding: Tensor


def _combined(z_plus: Tensor, z_minus: Tensor) -> Tensor:
    far = SCALE * z_plus - (SCALE - 1) * z_minus
    r = far.norm(dim=-1, keepdim=True) / z_plus.norm(dim=-1, keepdim=True)
    return ALPHA * far * r.clamp(max=TAU) / r + (1 - ALPHA) * z_plus


def _words(network: nn.Module, inputs: dict[str, Any]) -> Words:
    times = [inputs["timestep"]]
    if "guidance" in inputs:  # FLUX, whose times are 0..1 where it is called
        times = [inputs["timestep"] * 1000, inputs["guidance"] * 1000]
    embedding = network.time_text_embed(*times, inputs["pooled_projections"])
    return Words(network.context_embedder(inputs["encoder_hidden_states"]), embedding)


def _double(block: Any, image: Tensor, prompt: Words, negative: Words, turns: Turns) -> tuple[Tensor, list[Words]]:
    """A block with a stream each for the image and the text."""
    normed, gate, shift, scale, gate_mlp, *second = block.norm1(image, emb=prompt.embedding)
    output, block.attn.to_out = block.attn.to_out, nn.ModuleList([nn.Identity(), nn.Identity()])
    seen, texts = [], []
    for own in (prompt, negative):
        if getattr(block, "context_pre_only", False):
            of_image, _ = block.attn(normed, block.norm1_context(own.text, own.embedding), **turns)
            texts.append(own)
        else:
            words, c_gate, c_shift, c_scale, c_gate_mlp = block.norm1_context(own.text, emb=own.embedding)
            of_image, of_text = block.attn(normed, words, **turns)
            text = own.text + c_gate[:, None] * of_text
            inner = block.ff_context(block.norm2_context(text) * (1 + c_scale[:, None]) + c_shift[:, None])
            texts.append(Words(text + c_gate_mlp[:, None] * inner, own.embedding))
        seen.append(of_image)
    block.attn.to_out = output
    image = image + gate[:, None] * output[0](_combined(*seen))
    if second:  # SD3.5's further attention of the image to itself
        image = image + second[1][:, None] * block.attn2(second[0])
    return image + gate_mlp[:, None] * block.ff(block.norm2(image) * (1 + scale[:, None]) + shift[:, None]), texts


def _single(block: Any, image: Tensor, prompt: Words, negative: Words, turns: Turns) -> tuple[Tensor, list[Words]]:
    """FLUX's later blocks, where text and image are one row."""
    length, seen, texts = prompt.text.shape[1], [], []
    for own in (prompt, negative):
        whole, gate = block.norm(torch.cat([own.text, image], 1), emb=own.embedding)
        as_prompt, image_gate = block.norm(torch.cat([own.text, image], 1), emb=prompt.embedding)
        whole[:, length:] = as_prompt[:, length:]
        read = block.attn(hidden_states=whole, **turns)
        inner = block.act_mlp(block.proj_mlp(whole))
        written = gate[:, None] * block.proj_out(torch.cat([read, inner], 2))
        texts.append(Words(own.text + written[:, :length], own.embedding))
        seen.append((read[:, length:], inner[:, length:]))
    (z_plus, of_image), (z_minus, _) = seen
    return image + image_gate[:, None] * block.proj_out(torch.cat([_combined(z_plus, z_minus), of_image], 2)), texts


@torch.no_grad()
def _by_hand(network: Any, prompt: dict[str, Any], negative: dict[str, Any]) -> Tensor:
    """What the network hands to its last layer."""
    turns: Turns = {}
    both = [_words(network, inputs) for inputs in (prompt, negative)]
    if "img_ids" in prompt:
        image = network.x_embedder(prompt["hidden_states"])
        turns["image_rotary_emb"] = network.pos_embed(torch.cat([prompt["txt_ids"], prompt["img_ids"]]))
    else:
        image = network.pos_embed(prompt["hidden_states"])
    for block in network.transformer_blocks:
        image, both = _double(block, image, *both, turns)
    for block in getattr(network, "single_transformer_blocks", ()):
        image, both = _single(block, image, *both, turns)
    return network.norm_out(image, both[0].embedding)


def _drawn(name: str, pipe: DiffusionPipeline, prompt: str) -> tuple[dict[str, Any], Tensor]:
    """The network's first inputs, and what reached its last layer."""
    network, last = stock.denoiser_of(pipe), []
    hook = network.proj_out.register_forward_pre_hook(lambda _, inputs: last.append(inputs[0]))
    with stock.recorded(network) as calls:
        stock.draw(name, pipe, [prompt], guidance_scale=1.0)
    hook.remove()
    return calls[0].inputs, last[0]


def test_the_negative_text_is_told_of_its_own_pooled_embedding_and_the_image_of_the_prompts(name, pipe):
    (prompt, plain), (negative, _) = (_drawn(name, pipe, text) for text in (PROMPT, NEGATIVE))
    with contrapose.nag(pipe, NEGATIVE, scale=SCALE, tau=TAU, alpha=ALPHA):
        _, guided = _drawn(name, pipe, PROMPT)
    network = stock.denoiser_of(pipe)
    torch.testing.assert_close(guided, _by_hand(network, prompt, negative), atol=1e-5, rtol=1e-4)
    mistaken = _by_hand(network, prompt, negative | {"pooled_projections": prompt["pooled_projections"]})
    assert (guided - mistaken).abs().max() > 0.01 * (guided - plain).abs().max(), "it matters whose embedding it is"
