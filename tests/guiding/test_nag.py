"""Normalized attention guidance on the stock pipelines: the formula in a layer, what stays, what is refused."""

from __future__ import annotations

from contextlib import nullcontext

import families
import stock
import torch
from aligned import answered, in_rows
from pytest import fixture, mark, raises
from training import with_lora

import contrapose
from contrapose.backbones.families.table import load_backbone
from contrapose.errors import UserError

PROMPT, NEGATIVE = stock.PROMPTS


LED = [family.name for family in families.FAMILIES if family.attention]


@fixture(params=LED)
def name(request):
    return request.param


def _no_cfg(name):
    return {"guidance_scale": families.of(name).cfg_off}


def _outputs(name, network):
    """Output layers of the attention that reads the text, in order."""
    attention = families.of(name).attention
    if attention == "single":
        return [block.attention.to_out[0] for block in network.layers]
    if attention in ("joint", "streams"):
        return [block.attn.to_out[0] for block in network.transformer_blocks]
    return [layer.to_out[0] for name, layer in network.named_modules() if name.endswith("attn2")]


def _attended(name, pipe, **prompt):
    """What of the image reached the first such layer at the first step."""
    seen = []
    layer = _outputs(name, stock.denoiser_of(pipe))[0]
    image = slice(0, families.of(name).filled)
    hook = layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0][:, image]))
    stock.draw(name, pipe, **{"prompts": [PROMPT], **_no_cfg(name), **prompt})
    hook.remove()
    return seen


@mark.parametrize("name", [f.name for f in families.FAMILIES if f.attention not in ("joint", None)], indirect=True)
def test_one_layer_by_hand(name, pipe, folder):
    """Where text and image attend to both: test_nag_joint.py."""
    [positive, *_] = _attended(name, pipe)
    if name == "sdxl":  # the negative words, and not that prompt's pooled text, which the whole image is told
        text = {"encoder_hidden_states": load_backbone(folder).text.embed([NEGATIVE])["text"]}
        network = stock.denoiser_of(pipe)
        swap = network.register_forward_pre_hook(lambda _, inputs, named: (inputs, named | text), with_kwargs=True)
        [negative, *_] = _attended(name, pipe)
        swap.remove()
    else:
        [negative, *_] = _attended(name, pipe, prompts=[NEGATIVE])
    assert not torch.equal(positive, negative)
    with contrapose.nag(pipe, NEGATIVE, scale=3.0, tau=1.01, alpha=0.4):
        asked, guided, *_ = _attended(name, pipe)
    far = 3 * positive - 2 * negative
    r = far.norm(dim=-1, keepdim=True) / positive.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(asked, negative, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(guided, 0.4 * far * r.clamp(max=1.01) / r + 0.6 * positive, atol=1e-5, rtol=1e-4)


def test_the_prompt_itself_as_negative_changes_nothing(name, pipe):
    """In every layer: a negative stream of text that went astray in any block would show."""
    base = stock.draw(name, pipe, [PROMPT], **_no_cfg(name))
    with contrapose.nag(pipe, PROMPT):
        same = stock.draw(name, pipe, [PROMPT], **_no_cfg(name))
    torch.testing.assert_close(same, base, atol=1e-4, rtol=1e-3)


@mark.parametrize("off", [{"scale": 1.0}, {"alpha": 0.0}])
def test_off_is_the_base_to_the_bit(name, pipe, off):
    base = stock.draw(name, pipe)
    with contrapose.nag(pipe, NEGATIVE, **off):
        assert torch.equal(stock.draw(name, pipe), base)


def test_it_acts_and_leaves_nothing_behind(name, pipe):
    base, marks = stock.draw(name, pipe, [PROMPT]), _marks(pipe)
    processors = dict(getattr(stock.denoiser_of(pipe), "attn_processors", {}))
    with contrapose.nag(pipe, NEGATIVE):
        assert not torch.allclose(stock.draw(name, pipe, [PROMPT]), base, atol=1e-3)
    assert _marks(pipe) == marks and torch.equal(stock.draw(name, pipe, [PROMPT]), base)
    assert dict(getattr(stock.denoiser_of(pipe), "attn_processors", {})) == processors

    def stop(*_):
        raise KeyboardInterrupt

    with raises(KeyboardInterrupt), contrapose.nag(pipe, NEGATIVE):
        stock.draw(name, pipe, [PROMPT], callback_on_step_end=stop) if families.of(name).watched else stop()
    assert _marks(pipe) == marks and torch.equal(stock.draw(name, pipe, [PROMPT]), base)


def test_outside_the_interval_a_step_is_the_stock_one(name, pipe):
    """To the bit; inside it is what guidance at every step makes of it. Each half of two steps, and nothing is left."""
    network, marks = stock.denoiser_of(pipe), _marks(pipe)

    def steps(**options):
        guided = contrapose.nag(pipe, NEGATIVE, **options) if options else nullcontext()
        with guided, stock.recorded(network) as calls:
            stock.draw(name, pipe, [PROMPT])
        return calls, [in_rows(call.output) for call in calls]

    calls, base = steps()
    first, second = stock.levels(name, calls)
    of_early, early = steps(interval=((first + second) / 2, 1.0))
    _, late = steps(interval=(0.0, (first + second) / 2))
    _, whole = steps(scale=5.0)
    assert torch.equal(late[0], base[0]) and torch.equal(early[0], whole[0])
    assert not torch.allclose(early[0], base[0], atol=1e-3) and not torch.allclose(late[1], base[1], atol=1e-3)
    # after a guided step, a stock one of where it led
    assert torch.equal(early[1], answered(network, of_early[1].inputs))
    assert _marks(pipe) == marks


def _start(name, pipe):
    return stock.as_called(name, stock.noise(name, pipe))


def _marks(pipe):
    """What could have been left on each layer; other tests share the pipeline, and accelerate leaves a forward."""
    modules = stock.denoiser_of(pipe).modules()
    return [(len(m._forward_pre_hooks), len(m._forward_hooks), vars(m).get("forward")) for m in modules]


@mark.parametrize("name", families.names(twice=True), indirect=True)
def test_rows_without_a_prompt_stay_as_they_were(name, pipe):
    network = stock.denoiser_of(pipe)
    with stock.recorded(network) as base:
        stock.draw(name, pipe)
    with contrapose.nag(pipe), stock.recorded(network) as guided:
        stock.draw(name, pipe)
    without, given = families.of(name).halves(in_rows(base[0].output))
    still, moved = families.of(name).halves(in_rows(guided[0].output))
    torch.testing.assert_close(still, without, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(moved, given, atol=1e-3)


def test_an_image_does_not_depend_on_its_batch(name, pipe):
    with contrapose.nag(pipe, "a green star"):
        start = _start(name, pipe)
        together = stock.draw(name, pipe, latents=start)
        alone = stock.draw(name, pipe, [PROMPT], latents=start[:1])
        twice = stock.draw(name, pipe, [PROMPT] * 2, latents=start)
        asked = stock.draw(name, pipe, [PROMPT], latents=start, num_images_per_prompt=2)
    torch.testing.assert_close(asked, twice, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(together[:1], alone, atol=1e-4, rtol=1e-3)


@mark.parametrize("name", [n for n in families.DISTINCT if n != "pixart" and families.of(n).attention], indirect=True)
def test_half_precision(name, folder):
    pipe = stock.load(name, folder, torch_dtype=torch.bfloat16)
    start = _start(name, pipe).to(torch.float32 if families.of(name).attention == "single" else torch.bfloat16)
    base = stock.draw(name, pipe, latents=start)
    with contrapose.nag(pipe, NEGATIVE, scale=9.0):
        guided = stock.draw(name, pipe, latents=start)
    assert guided.isfinite().all() and not torch.equal(guided, base)


@mark.parametrize("name", ["sana", "flux", *(n for n in families.one_of_each("attention") if n in LED)], indirect=True)
def test_beside_guidance_by_preference(name, pipe, folder, tmp_path):
    torch.manual_seed(0)
    backbone = with_lora(load_backbone(folder), 4, 4)
    for weight in backbone.policies.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    backbone.save(tmp_path)
    made = []
    for batched in (True, False):
        with contrapose.nag(pipe, NEGATIVE), contrapose.guide(pipe, tmp_path, scale=0.5, batched=batched):
            made.append(stock.draw(name, pipe))
    with contrapose.guide(pipe, tmp_path, scale=0.5):
        assert not torch.allclose(stock.draw(name, pipe), made[0], atol=1e-3)
    torch.testing.assert_close(*made, atol=1e-4, rtol=1e-3)


@mark.parametrize("name", ["sd"], indirect=True)
def test_what_cannot_work_is_told_before(name, folder):
    pipe = stock.load(name, folder)
    with raises(UserError, match="alpha"), contrapose.nag(pipe, alpha=2.0):
        pass
    encoder, pipe.text_encoder = pipe.text_encoder, None
    with raises(UserError, match="no text encoder"), contrapose.nag(pipe):
        pass
    pipe.text_encoder = encoder
    pipe.unet.encoder_hid_proj = torch.nn.Identity()
    with raises(UserError, match="IP-Adapter"), contrapose.nag(pipe):
        pass
    pipe.unet.encoder_hid_proj = None
    pipe.unet.compile()
    with raises(UserError, match="compiled"), contrapose.nag(pipe):
        pass


@mark.parametrize("negative", ["", " ".join(["a green star"] * 5), " ".join(["a green star"] * 20)])
@mark.parametrize("name", families.names(attention="single"), indirect=True)
def test_texts_of_any_length_beside_one_image(name, pipe, negative):
    """The image sees the negative text as if that were its prompt, though its own prompts take other places."""
    start = torch.randn(2, 16, 8, 16, generator=torch.Generator().manual_seed(0))  # 32 patches, so nothing to fill up
    options = {"latents": start, "height": 16, "width": 32}
    alone, *_ = _attended(name, pipe, prompts=[negative] * 2, **options)
    with contrapose.nag(pipe, negative):
        asked, *_ = _attended(name, pipe, prompts=[PROMPT, " ".join([PROMPT] * 9)], **options)
    torch.testing.assert_close(asked, alone, atol=1e-5, rtol=1e-4)


@mark.parametrize("name", ["flux"], indirect=True)
def test_flux_wants_as_many_words_of_both(name, pipe):
    marks = _marks(pipe)
    with raises(UserError, match="512 tokens"), contrapose.nag(pipe):
        stock.draw(name, pipe, max_sequence_length=16)
    assert _marks(pipe) == marks
