"""A model's folder with one thing wrong in it: refused in one line that names the part, before anything is made of it.

Each row is one corruption of a tiny pipeline, and what the line must say. `test_loading` has files that are not there,
`test_broken_weights` tensors.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import families
import pytest
from breaking import Spoil, edit, refused, scheduled, write

from contrapose.backbones.families.table import load_backbone, prompt_reader
from contrapose.backbones.folders import check_parts
from contrapose.backbones.meta import CONFIGS, SHIPPED, skeleton
from contrapose.errors import UserError

DEEP = "[" * 100_000 + "]" * 100_000
FACTOR = "scaling_factor"
CHAT = families.names(chat=True)[0]
TABLE: dict[str, tuple[str, Spoil, str]] = {
    "index deep": ("sd", write("model_index.json", DEEP), "model_index.json: not readable as JSON"),
    "index class a number": ("sd", edit("model_index.json", _class_name=7), "a 7 is not supported"),
    "index class null": ("sd", edit("model_index.json", _class_name=None), "is not supported"),
    "index class with code": (
        "sd", edit("model_index.json", _class_name=["pipeline", "Evil"]), "['pipeline', 'Evil'] is not supported",
    ),
    "index class of another family": ("sd", edit("model_index.json", _class_name="FluxPipeline"), "text_encoder_2"),
    "index class of the next family": (
        "sd", edit("model_index.json", _class_name="StableDiffusionXLPipeline"), "text_encoder_2",
    ),
    "index part []": ("sd", edit("model_index.json", vae=[]), "model_index.json: vae is []"),
    "index part of one": ("sd", edit("model_index.json", vae=["diffusers"]), "model_index.json: vae is ['diffusers']"),
    "index part of numbers": ("sd", edit("model_index.json", unet=[1, 2]), "model_index.json: unet is [1, 2]"),
    "index part a number": ("sd", edit("model_index.json", unet=5), "model_index.json: unet is 5"),
    "index part null": ("sd", edit("model_index.json", unet=[None, None]), "names no unet"),
    "index text encoder null": ("sdxl", edit("model_index.json", text_encoder=[None, None]), "names no text_encoder"),
    "index part of another class": (
        "sd", edit("model_index.json", vae=["diffusers", "UNet2DConditionModel"]), "takes AutoencoderKL",
    ),
    "index part a function": ("sd", edit("model_index.json", unet=["os", "system"]), "unet is a system of os"),
    "index part of a file beside it": ("sd", edit("model_index.json", unet=["evil", "Evil"]), "a Evil of evil"),
    "index part of any class": (
        "sd", edit("model_index.json", text_encoder=["transformers", "AutoModel"]), "a AutoModel of transformers",
    ),
    "index tokenizer of any class": (
        "sd", edit("model_index.json", tokenizer=["transformers", "AutoTokenizer"]), "a AutoTokenizer of transformers",
    ),
    "index scheduler a network": (
        "sd", edit("model_index.json", scheduler=["diffusers", "UNet2DConditionModel"]), "scheduler",
    ),
    "scheduler settings of another path": (
        "sd", edit("scheduler/scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"),
        "scheduler_config.json: is of a FlowMatchEulerDiscreteScheduler, and the index names a ",
    ),
    "scheduler settings of another path in a flow family": (
        "sd3", edit("scheduler/scheduler_config.json", _class_name="DDIMScheduler"),
        "scheduler_config.json: is of a DDIMScheduler, and the index names a FlowMatch",
    ),
    "config missing": ("sd", lambda folder: (folder / "unet/config.json").unlink(), "unet/config.json: no such file"),
    "config binary": ("sd", write("unet/config.json", b"\xff\xfe\x00"), "unet/config.json: not readable as JSON"),
    "config deep": ("sd", write("vae/config.json", DEEP), "vae/config.json: not readable as JSON"),
    "config a list": ("sd", write("text_encoder/config.json", "[]"), "text_encoder/config.json: not a JSON object"),
    "config empty": ("sd", write("unet/config.json", "{}"), "unet/config.json: sample_size is None"),
    "config of another width": (
        "sd", edit("unet/config.json", block_out_channels=[32, 64]), "unet",
    ),
    "text config of another width": ("sd", edit("text_encoder/config.json", hidden_size=64), "text_encoder: "),
    "config of more layers": ("sd", edit("text_encoder/config.json", num_hidden_layers=7), "tensors are missing"),
    "config of fewer layers": ("sd", edit("text_encoder/config.json", num_hidden_layers=1), "unknown to the network"),
    "config of too many layers": ("sd", edit("unet/config.json", layers_per_block=10**9), "layers_per_block is 10000"),
    "config of negative layers": ("sd", edit("unet/config.json", layers_per_block=-1), "unet"),
    "config of negative width": ("sd", edit("unet/config.json", block_out_channels=[-16, 32]), "unet"),
    "config of no width": ("sd", edit("unet/config.json", block_out_channels=[0, 0]), "unet"),
    "config NaN": ("sd", edit("unet/config.json", norm_eps=float("nan")), "norm_eps is nan"),
    "config infinite": ("sd", edit("vae/config.json", norm_eps=float("inf")), "norm_eps is inf"),
    "config without end": ("sd", edit("text_encoder/config.json", vocab_size=10**12), "vocab_size is 1000000"),
    "config of no number": ("sd", edit("unet/config.json", norm_eps=None), "norm_eps is None, where a number is"),
    "config of a fraction": ("sd", edit("unet/config.json", downsample_padding=1.5), "downsample_padding is 1.5"),
    "config of negative heads": ("sd", edit("text_encoder/config.json", num_attention_heads=-1), "_heads is -1, where"),
    "config of no groups": ("sd", edit("vae/config.json", norm_num_groups=True), "norm_num_groups is True, where"),
    "config of text": (CHAT, edit("transformer/config.json", rope_theta="x"), "rope_theta is 'x'"),
    "text config of no number": ("sd", edit("text_encoder/config.json", layer_norm_eps=None), "layer_norm_eps is None"),
    "text config without an end": ("sd", edit("text_encoder/config.json", eos_token_id=None), "says no eos_token_id"),
    "shift of text": (CHAT, scheduled(max_shift="x"), "the ends of its shift"),
    "shift without an end": ("flux", scheduled(max_shift=None), "the ends of its shift"),
    "class name a number": ("sd", edit("unet/config.json", _class_name=5, cross_attention_dim=64), "unet"),
    "side text": ("sd", edit("unet/config.json", sample_size="64"), "unet/config.json: sample_size is '64'"),
    "side null": ("sd", edit("unet/config.json", sample_size=None), "unet/config.json: sample_size is None"),
    "side 0": ("sd", edit("unet/config.json", sample_size=0), "unet/config.json: sample_size is 0"),
    "side negative": ("sd", edit("unet/config.json", sample_size=-8), "unet/config.json: sample_size is -8"),
    "side a fraction": ("sd", edit("unet/config.json", sample_size=8.5), "unet/config.json: sample_size is 8.5"),
    "side true": ("sd", edit("unet/config.json", sample_size=True), "unet/config.json: sample_size is True"),
    "side without end": ("sd", edit("unet/config.json", sample_size=10**6), "unet/config.json: sample_size is 10000"),
    "side of a transformer": ("sd3", edit("transformer/config.json", sample_size=10**6), "sample_size is 1000000"),
    "positions without end": ("sd3", edit("transformer/config.json", pos_embed_max_size=10**6), "pos_embed_max_size"),
    "scale 0": ("sd", edit("vae/config.json", scaling_factor=0), "vae/config.json: scaling_factor is 0"),
    "scale negative": ("sd", edit("vae/config.json", scaling_factor=-1), "vae/config.json: scaling_factor is -1"),
    "scale text": ("sd", edit("vae/config.json", scaling_factor="1"), "vae/config.json: scaling_factor is '1'"),
    "scale null": ("sana", edit("vae/config.json", scaling_factor=None), "vae/config.json: scaling_factor is None"),
    "scale NaN": ("sd", edit("vae/config.json", scaling_factor=float("nan")), "scaling_factor is nan"),
    "shift text": ("flux", edit("vae/config.json", shift_factor="0"), "vae/config.json: shift_factor is '0'"),
    "mean of other channels": ("sdxl", edit("vae/config.json", latents_mean=[0.0]), "latents_mean is [0.0]"),
    "deviation 0": ("sdxl", edit("vae/config.json", latents_std=[1, 1, 0, 1]), "latents_std is [1, 1, 0, 1]"),
    "latents of other channels": ("sd", edit("unet/config.json", in_channels=9), "unet"),
    "tokenizer config empty": ("sd", write("tokenizer/tokenizer_config.json", "{}"), "model_max_length is 1000000000"),
    "tokenizer length of text": (
        "sd", edit("tokenizer/tokenizer_config.json", model_max_length="77"), "model_max_length is '77'",
    ),
    "tokenizer config deep": ("sd", write("tokenizer/tokenizer_config.json", DEEP), "config.json: not readable"),
    "tokenizer longer than its encoder": (
        "sdxl", edit("tokenizer_2/tokenizer_config.json", model_max_length=7777), "tokenizer_2: model_max_length is 7",
    ),
    "tokenizer deep": ("sd", write("tokenizer/tokenizer.json", DEEP), "cannot be loaded"),
    "tokenizer an empty object": ("sd", write("tokenizer/tokenizer.json", "{}"), "cannot be loaded"),
    "tokenizer code": (
        "sd", edit("tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}), "",
    ),
    "scheduler config deep": ("sd", write("scheduler/scheduler_config.json", DEEP), "config.json: not readable"),
    "scheduler of too many steps": (
        "sd", scheduled(num_train_timesteps=10**12), "num_train_timesteps is 1000000",
    ),
    "scheduler of an unknown prediction": (
        "sd", scheduled(prediction_type=5), "the network predicts 5 (known",
    ),
    "scheduler of an unknown spacing": (
        "sd", scheduled(timestep_spacing="evenly"), "it cannot take a step",
    ),
    "scheduler with an offset": (
        "sdxl", scheduled(steps_offset=5000), "where the network knows 0 to 1000",
    ),
    "scheduler of no order": ("sd", scheduled(solver_order=0), "it cannot take a step"),
    "scheduler of one beta": ("sd", scheduled(trained_betas=True), "its betas do not lead"),
    "scheduler of text": ("sd", scheduled(beta_end="x"), "cannot be loaded"),
    "scheduler of no steps": ("sd", scheduled(num_train_timesteps=0), "_timesteps is 0"),
    "scheduler of negative steps": (
        "sd3", scheduled(num_train_timesteps=-1), "num_train_timesteps is -1",
    ),
    "scheduler of half steps": ("sd", scheduled(num_train_timesteps=9.5), "_timesteps is 9.5"),
    "flow of text": ("sd3", scheduled(shift="3"), "cannot be loaded"),
    "flow shift 0": ("sd3", scheduled(shift=0), "its shift is not above 0"),
    "flow shift negative": ("sana", scheduled(flow_shift=-3.0), "its shift is not above 0"),
    "chat template missing": (CHAT, lambda f: (f / "tokenizer/chat_template.jinja").unlink(), "tokenizer cannot"),
    "chat template broken": (CHAT, write("tokenizer/chat_template.jinja", "{% for"), "tokenizer cannot read"),
    "no padding": ("sana", edit("tokenizer/tokenizer_config.json", pad_token=None), "tokenizer cannot read a prompt"),
}  # fmt: skip


@pytest.mark.parametrize("what", TABLE)
def test_one_thing_wrong(what: str, broken: Callable[[str, Spoil], Path]) -> None:
    family, spoil, says = TABLE[what]
    model = broken(family, spoil)
    if not says:  # what is there besides is never looked at
        load_backbone(model)
        return
    refused(model, says)


def test_a_side_that_is_two_numbers(broken: Callable[[str, Spoil], Path]) -> None:
    """diffusers knows networks for images that are wider than high."""
    model = broken("sd", edit("unet/config.json", sample_size=[8, 16]))
    assert load_backbone(model).images.latent_shape == (4, 8, 16)


@pytest.mark.parametrize(
    ("family", "part"), [("sd", "text_encoder"), ("sana", "text_encoder"), ("flux", "text_encoder_2")]
)
def test_a_text_encoder_of_another_model(
    family: str, part: str, broken: Callable[[str, Spoil], Path], tiny_family: Callable[[str], Path]
) -> None:
    """Whole in itself, and of another width than the network reads."""
    other = {"sd": "flux", "sana": CHAT, "flux": "sd3"}[family]
    theirs = {"sd": "text_encoder", "sana": "text_encoder", "flux": "text_encoder_3"}[family]

    def exchange(folder: Path) -> None:
        shutil.rmtree(folder / part)
        shutil.copytree(tiny_family(other) / theirs, folder / part)
        index = json.loads((folder / "model_index.json").read_text())
        index[part] = json.loads((tiny_family(other) / "model_index.json").read_text())[theirs]
        (folder / "model_index.json").write_text(json.dumps(index))

    refused(broken(family, exchange), "takes Gemma2" if family == "sana" else "so they are another model's")


def _merges(keep: float) -> Spoil:
    """The tokenizer in its older form, vocabulary and merges in two files, of which the second is cut."""

    def spoil(folder: Path) -> None:
        model = json.loads((folder / "tokenizer/tokenizer.json").read_text())["model"]
        merges = [" ".join(merge) for merge in model["merges"]]
        kept = merges[: int(keep * len(merges))]
        (folder / "tokenizer/vocab.json").write_text(json.dumps(model["vocab"]))
        (folder / "tokenizer/merges.txt").write_text("".join(line + "\n" for line in ["#version: 0.2", *kept]))
        (folder / "tokenizer/tokenizer.json").unlink()

    return spoil


def test_merges_in_a_file_of_their_own(broken: Callable[[str, Spoil], Path]) -> None:
    load_backbone(broken("sd", _merges(1.0)))


def test_merges_that_are_cut(broken: Callable[[str, Spoil], Path]) -> None:
    refused(broken("sd", _merges(0.8)), "so merges.txt is cut short")


def _holding(*names: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}")

    return make


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda folder: None, "no model_index.json, so this is no diffusers pipeline folder"),
    "a run": (_holding("run.yaml", "pytorch_lora_weights.safetensors"), "is a LoRA and no model; name the model"),
    "peft's form": (_holding("adapter_config.json", "adapter_model.safetensors"), "is a LoRA and no model"),
    "kohya's file": (_holding("my_lora_v2.safetensors"), "is a LoRA and no model"),
    "a run in full": (_holding("run.yaml", "model/model_index.json"), "is a run that trained the whole network"),
    "a network": (lambda folder: (folder / "config.json").write_text('{"_class_name": "ControlNetModel"}'),
                  "is a ControlNetModel alone, and no whole pipeline"),
    "an encoder": (lambda folder: (folder / "config.json").write_text('{"architectures": ["CLIPModel"]}'),
                   "is a ['CLIPModel'] alone"),
}  # fmt: skip


@pytest.mark.parametrize("reader", [load_backbone, skeleton, prompt_reader])
@pytest.mark.parametrize("what", FOLDERS)
def test_a_folder_of_something_else(
    what: str, reader: Callable[..., object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    make, says = FOLDERS[what]
    folder = tmp_path_factory.mktemp("a")
    make(folder)
    with pytest.raises(UserError, match=re.escape(says)) as refused:
        reader(folder)
    assert str(folder) in str(refused.value) and len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", SHIPPED)
def test_published_configurations_are_taken(name: str) -> None:
    """Those of real models, which are shipped without their weights."""
    backbone = skeleton(name)
    left_out = (*backbone.family.unused_parts, "tokenizer", "tokenizer_2", "tokenizer_3")
    check_parts(CONFIGS / name, type(backbone.sampler.stock), left_out)
