"""Diffusion-NPO and CHATS: rows with and without a prompt predicted by different policies, against them by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aligned
import families
import pytest
import stock
import torch
from aligned import apart, in_rows
from diffusers import DiffusionPipeline
from torch import Tensor

import contrapose
from contrapose.backbones.base import Backbone
from contrapose.core.guidance import CHATSGuidance
from contrapose.errors import UserError

EXACT = 1e-5  # of the largest value
WITH_ROWS = families.names(twice=True)


@pytest.fixture(params=["lora", "full"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def _halves(name: str, rows: Tensor) -> dict[str, Tensor]:
    return dict(zip(("none", "given"), families.of(name).halves(rows), strict=True))


def _guided(name: str, pipe: DiffusionPipeline, **guidance: Any) -> tuple[stock.Call, list[int]]:
    """The one call of a step, with the guided answer, and the rows that networks were asked."""
    network = stock.denoiser_of(pipe)
    with aligned.counted(network) as rows, stock.recorded(network) as calls, contrapose.guide(pipe, **guidance):
        stock.draw(name, pipe, num_inference_steps=1)
    return calls[0], rows


@pytest.mark.parametrize("name", WITH_ROWS)
@pytest.mark.parametrize("with_positive", [True, False])
def test_npo(
    name: str, pipe: DiffusionPipeline, kind: str, aligned_runs: Callable[..., Any], with_positive: bool
) -> None:
    """neg(null) and pos(c), or base(c) without a positive run; no rows more than the base has."""
    positive, negative, networks = aligned_runs(name, kind)
    call, rows = _guided(
        name, pipe, positive=positive if with_positive else None, negative=negative, method="npo", scale=1.0
    )
    given = networks["positive"] if with_positive else stock.denoiser_of(pipe)
    guided = _halves(name, in_rows(call.output))
    for half, network in (("none", networks["negative"]), ("given", given)):
        told = {which: _halves(name, aligned.answered(net, call.inputs))[half] for which, net in networks.items()}
        assert apart(guided[half], _halves(name, aligned.answered(network, call.inputs))[half]) < EXACT
        assert apart(told["positive"], told["negative"]) > 100 * EXACT, "the test must see which one"
    assert rows == ([4] if kind == "lora" else [2, 2])


@pytest.mark.parametrize("name", WITH_ROWS)
def test_npo_half_way(name: str, pipe: DiffusionPipeline, kind: str, aligned_runs: Callable[..., Any]) -> None:
    positive, negative, networks = aligned_runs(name, kind)
    call, _ = _guided(name, pipe, positive=positive, negative=negative, method="npo", scale=0.5)
    guided = _halves(name, in_rows(call.output))
    base = _halves(name, aligned.answered(stock.denoiser_of(pipe), call.inputs))
    for half, policy in (("none", "negative"), ("given", "positive")):
        theirs = _halves(name, aligned.answered(networks[policy], call.inputs))[half]
        assert apart(guided[half], (base[half] + theirs) / 2) < EXACT


def _proxied(inputs: dict[str, Any], proxy: float) -> dict[str, Any]:
    """A call's inputs whose rows without a prompt read (1 + a) emb(null) - a emb(c)."""

    def changed(text: Tensor) -> Tensor:
        none, given = text.chunk(2)
        return torch.cat([(1 + proxy) * none - proxy * given, given])

    def filled(none: Tensor, given: Tensor) -> Tensor:
        rows = [
            [text[min(place, len(text) - 1)] for text in (none, given)] for place in range(max(map(len, (none, given))))
        ]
        return torch.stack([(1 + proxy) * one - proxy * other for one, other in rows])

    if "cap_feats" in inputs:
        given, none = inputs["cap_feats"][:2], inputs["cap_feats"][2:]
        assert len({len(text) for text in inputs["cap_feats"]}) > 2, "the test must see texts of different lengths"
        return inputs | {"cap_feats": [*given, *map(filled, none, given)]}
    if "encoder_attention_mask" in inputs:
        text, lengths = inputs["encoder_hidden_states"].clone(), inputs["encoder_attention_mask"].sum(1).tolist()
        mask = inputs["encoder_attention_mask"].clone()
        assert lengths[0] < lengths[2] and lengths[1] < lengths[3]
        for row in (0, 1):
            proxied = filled(text[row, : lengths[row]], text[row + 2, : lengths[row + 2]])
            text[row, : len(proxied)], mask[row, : len(proxied)] = proxied, 1
        return inputs | {"encoder_hidden_states": text, "encoder_attention_mask": mask}
    names = ("encoder_hidden_states", "pooled_projections")
    found = inputs | {name: changed(inputs[name]) for name in names if name in inputs}
    if inputs.get("added_cond_kwargs"):
        added = inputs["added_cond_kwargs"]
        found["added_cond_kwargs"] = added | {"text_embeds": changed(added["text_embeds"])}
    return found


@pytest.mark.parametrize("name", WITH_ROWS)
def test_chats(name: str, pipe: DiffusionPipeline, kind: str, aligned_runs: Callable[..., Any]) -> None:
    """lose(proxy) and win(c), which the pipeline puts together."""
    positive, negative, networks = aligned_runs(name, kind)
    call, rows = _guided(name, pipe, positive=positive, negative=negative, method=CHATSGuidance(proxy=0.3))
    guided = _halves(name, in_rows(call.output))
    inputs = _proxied(call.inputs, 0.3)
    assert apart(guided["none"], _halves(name, aligned.answered(networks["negative"], inputs))["none"]) < EXACT
    assert apart(guided["given"], _halves(name, aligned.answered(networks["positive"], inputs))["given"]) < EXACT
    plain = _halves(name, aligned.answered(networks["negative"], call.inputs))["none"]
    assert apart(guided["none"], plain) > 10 * EXACT, "the test must see the proxy"
    assert rows == ([4] if kind == "lora" else [2, 2])


@pytest.mark.parametrize("name", WITH_ROWS)
def test_without_classifier_free_guidance(
    name: str, pipe: DiffusionPipeline, aligned_runs: Callable[..., Any], plain: Backbone
) -> None:
    """One prompt or two: there are no rows that a negative policy could predict."""
    positive, negative, _ = aligned_runs(name, "lora")
    off = families.of(name).cfg_off
    for prompts in (stock.PROMPTS, stock.PROMPTS[:1]):
        guided = contrapose.guide(pipe, positive, negative, "npo")
        with pytest.raises(UserError, match=r"set the guidance scale above 1$"), guided:
            stock.draw(name, pipe, prompts, guidance_scale=off)
    assert "forward" not in stock.denoiser_of(pipe).__dict__


@pytest.mark.parametrize("method", ["npo", "chats"])
@pytest.mark.parametrize("name", ["sd", "sana", *families.names(unconditional="last")])
def test_off_and_batched(name: str, pipe: DiffusionPipeline, aligned_runs: Callable[..., Any], method: str) -> None:
    """Strength 0 is the base to the bit; half of it asks base and policy, together or one after the other."""
    positive, negative, _ = aligned_runs(name, "lora")
    runs = {"positive": positive, "negative": negative, "method": method}
    base = stock.draw(name, pipe)
    with contrapose.guide(pipe, **runs, scale=0.0):
        assert torch.equal(stock.draw(name, pipe), base)
    outputs = [in_rows(_guided(name, pipe, **runs, scale=0.5, batched=batched)[0].output) for batched in (True, False)]
    assert apart(*outputs) < EXACT
