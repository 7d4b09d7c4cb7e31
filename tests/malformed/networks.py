"""Models, and the weights of runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from malformed.case import NAN, Arguments, Case, Place, Tensors, config, copied, halved, poisoned, typed, weights


def model(change: Callable[[Path], object], *, check: bool = False) -> Callable[[Path], Arguments]:
    """A copy of the model with something changed, and a command that loads it."""

    def prepare(folder: Path) -> Arguments:
        change(copied("model", folder / "m"))
        if check:
            return ["pairs", "check", Place.of("pairs"), "--model", "m"]
        return ["pairs", "draw", "--model", "m", "--prompts", Place.of("prompts.jsonl"), "--out", "out", "--steps", "1"]

    return prepare


def with_code(folder: Path) -> None:
    (folder / "pipeline.py").write_text("raise SystemExit('code was run')\n")
    config("model_index.json", _class_name=["pipeline", "Evil"])(folder)


def with_own_tokenizer(folder: Path) -> None:
    (folder / "tokenizer/evil.py").write_text("raise SystemExit('code was run')\n")
    config("tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}, tokenizer_class="Evil")(
        folder
    )


FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
MODELS = [
    Case("model", name, model(change, check="auto_map" in name), "m")
    for name, change in [
        ("tokenizer config empty object", lambda m: (m / "tokenizer/tokenizer_config.json").write_text("{}")),
        ("unet half of the tensors", weights("unet/*.safetensors", halved)),
        ("vae NaN weights", weights("vae/*.safetensors", poisoned)),
        ("text_encoder NaN weights", weights("text_encoder/*.safetensors", poisoned)),
        ("text_encoder half of the tensors", weights("text_encoder/*.safetensors", halved)),
        ("index deep", lambda m: (m / "model_index.json").write_text("[" * 50_000)),
        ("index class other family", config("model_index.json", _class_name="StableDiffusionXLPipeline")),
        ("index part []", config("model_index.json", unet=[])),
        ("code: pipeline.py in folder", with_code),
        ("code: tokenizer auto_map (pairs check)", with_own_tokenizer),
        ("unet config sample_size text", config("unet/config.json", sample_size="big")),
        ("unet config sample_size null", config("unet/config.json", sample_size=None)),
        ("unet config sample_size 10^6", config("unet/config.json", sample_size=10**6)),
        ("vae scaling_factor 0", config("vae/config.json", scaling_factor=0)),
        ("vae scaling_factor text", config("vae/config.json", scaling_factor="x")),
        ("scheduler class Flow", lambda m: (m / "scheduler/scheduler_config.json").write_text(json.dumps(FLOW))),
    ]
]

LORA = "pytorch_lora_weights.safetensors"
_IMAGES = ("--prompts", "@prompts.jsonl", "--out", "out", "--steps", "1", "--num-images", "1")
USERS: dict[str, tuple[str, ...]] = {
    "export": ("export", "--run", "r", "--out", "out.safetensors"),
    "sample": ("sample", "--model", "@model", "--adapter", "r", *_IMAGES),
    "sample positive": ("sample", "--model", "@model", "--positive", "r", *_IMAGES),
    "merge": ("merge", "--model", "@model", "--positive", "r", "--out", "out"),
    "align": (
        "align",
        "ddspo",
        "--model",
        "@model",
        "--pairs",
        "@pairs",
        "--start",
        "r",
        "--out",
        "out",
        *commands.TRAINING,
    ),
}


def adapter(user: str, run: str, change: Callable[[Path], object]) -> Callable[[Path], Arguments]:
    def prepare(folder: Path) -> Arguments:
        change(copied(run, folder / "r"))
        return typed(*USERS[user])(folder)

    return prepare


def lora(change: Callable[[Tensors, dict[str, Any], dict[str, str]], object]) -> Callable[[Path], None]:
    """Change the tensors, the settings in the header, or the whole header of adapters."""

    def apply(run: Path) -> None:
        with safe_open(run / LORA, "pt") as file:
            header = dict(file.metadata())
        found, settings = load_file(run / LORA), json.loads(header["lora_adapter_metadata"])
        header["lora_adapter_metadata"] = ""
        change(found, settings, header)
        save_file(
            found,
            run / LORA,
            {**header, "lora_adapter_metadata": header["lora_adapter_metadata"] or json.dumps(settings)},
        )

    return apply


def dropped(number: int | None) -> Callable[[Tensors, Any, Any], None]:
    """Take the second half of one layer's adapter away, or of all of them."""

    def apply(found: Tensors, *_: Any) -> None:
        ends = sorted(name for name in found if "lora_B" in name)
        for name in ends if number is None else [ends[number]]:
            del found[name]

    return apply


def narrower(found: Tensors, *_: Any) -> None:
    first = next(name for name in sorted(found) if "lora_A" in name)
    found[first] = found[first][:3].contiguous()
    other = first.replace("lora_A", "lora_B")
    found[other] = found[other][:, :3].contiguous()


def flattened(found: Tensors, *_: Any) -> None:
    first = next(name for name in sorted(found) if "lora_A" in name)
    found[first] = found[first].flatten()


def said(**values: Any) -> Callable[[Path], None]:
    return lora(lambda _, settings, __: settings.update({f"unet.{name}": value for name, value in values.items()}))


def as_pickle(run: Path) -> None:
    [path] = (run / "model/unet").glob("*.safetensors")
    torch.save(load_file(path), run / "model/unet/diffusion_pytorch_model.bin")  # the name that diffusers looks for
    path.unlink()


OF_RUNS: list[tuple[str, str, list[str], Callable[[Path], object]]] = [
    (
        "extra keys",
        "lora",
        ["export"],
        lora(lambda t, _, __: t.update({"unet.nowhere.lora_A.weight": torch.zeros(16, 4)})),
    ),
    ("half pairs: lora_B gone", "lora", ["export"], lora(dropped(None))),
    ("one layer's lora_B gone", "lora", ["sample"], lora(dropped(0))),
    ("other rank in one layer", "lora", ["export"], lora(narrower)),
    ("rank in header differs", "lora", ["export"], said(r=7)),
    ("header a list", "lora", ["merge", "align"], lora(lambda _, __, h: h.update(lora_adapter_metadata="[1]"))),
    ("header alpha NaN", "lora", ["sample positive", "merge"], said(lora_alpha=NAN)),
    ("NaN weights", "lora", ["sample", "sample positive"], lora(lambda t, _, __: poisoned(t))),
    ("1-dim weights", "lora", ["export"], lora(flattened)),
    ("fingerprint of another model", "lora", ["sample"], lora(lambda _, __, h: h.update(base_fingerprint="0" * 16))),
    ("full: NaN", "full", ["sample", "merge"], weights("model/unet/*.safetensors", poisoned)),
    ("full: half the tensors", "full", ["sample positive", "merge"], weights("model/unet/*.safetensors", halved)),
    ("full: .bin pickle instead of safetensors", "full", ["sample", "sample positive", "align"], as_pickle),
]
ADAPTERS = [
    Case("adapter", f"{name} [{user}]", adapter(user, run, change), "r")
    for name, run, users, change in OF_RUNS
    for user in users
]
