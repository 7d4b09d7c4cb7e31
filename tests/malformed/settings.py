"""Settings in files and on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from malformed.case import INF, NAN, Arguments, Case, Place, typed


def settings_file(name: str, key: str, value: Any) -> Callable[[Path], Arguments]:
    """A run's settings file with one value changed, to be run."""
    command = ["pairs", "real"] if name == "real" else ["align"]

    def prepare(folder: Path) -> Arguments:
        settings = yaml.safe_load((Place.base / name / f"{'real' if name == 'real' else 'run'}.yaml").read_text())
        for path in ("model", "pairs", "images"):
            if path in settings:
                settings[path] = Place.of(settings[path])
        *parents, last = key.split(".")
        inner = settings
        for parent in parents:
            inner = inner[parent]
        inner[last] = value(settings) if callable(value) else value
        (folder / "it.yaml").write_text(yaml.safe_dump(settings))
        return [*command, "it.yaml", "--out", "out"]

    return prepare


def text_file(change: Callable[[str], str]) -> Callable[[Path], Arguments]:
    def prepare(folder: Path) -> Arguments:
        (folder / "run.yaml").write_text(change((Place.base / "lora/run.yaml").read_text()))
        return ["align", "run.yaml", "--out", "out"]

    return prepare


def looped_settings(folder: Path) -> Arguments:
    (folder / "run.yaml").symlink_to("run.yaml")
    return ["align", "run.yaml", "--out", "out"]


_O = "optimisation."
NUMBERS: list[tuple[str, str, Any]] = [
    ("weight_decay nan", _O + "weight_decay", NAN), ("weight_decay inf", _O + "weight_decay", INF),
    ("epsilon nan", _O + "epsilon", NAN), ("epsilon inf", _O + "epsilon", INF),
    ("max_grad_norm nan", _O + "max_grad_norm", NAN), ("max_grad_norm -1", _O + "max_grad_norm", -1),
    ("beta1 inf", _O + "beta1", INF), ("beta1 -1", _O + "beta1", -1), ("beta2 inf", _O + "beta2", INF),
    ("beta2 -1", _O + "beta2", -1), ("ema_decay inf", _O + "ema_decay", INF), ("ema_decay -1", _O + "ema_decay", -1),
    ("beta nan", "method.beta", NAN), ("beta inf", "method.beta", INF), ("lora_alpha nan", "lora_alpha", NAN),
    ("lora_alpha inf", "lora_alpha", INF), ("beta1 1.0", _O + "beta1", 1.0), ("ema 1.0", _O + "ema_decay", 1.0),
    ("learning_rate true", _O + "learning_rate", True), ("learning_rate 1e400", _O + "learning_rate", "1e400"),
    ("warmup -1", _O + "warmup", -1), ("save_every -1", "watching.save_every", -1), ("keep -1", "watching.keep", -1),
    ("batch_size 10^12", _O + "batch_size", 10**12), ("seed 9223372036854775808", "seed", 2**63),
    ("seed 18446744073709551616", "seed", 2**64), ("smoothing -1", "method.link.smoothing", -1),
    ("smoothing nan", "method.link.smoothing", NAN),
]  # fmt: skip
RUN_FILES = [
    Case("run.yaml", "symlink loop", looped_settings, "run.yaml"),
    Case("run.yaml", "nested 3000 lists", text_file(lambda _: "a: " + "[" * 3000 + "]" * 3000), "run.yaml"),
    Case("run.yaml", "nested maps 2000", text_file(lambda _: "{a: " * 2000 + "1" + "}" * 2000), "run.yaml"),
    Case("run.yaml", "duplicate key: seed twice", text_file(lambda text: text + "seed: 1\n"), "seed"),
    Case(
        "run.yaml", "pairs weight 1e9", settings_file("lora", "pairs", lambda s: [s["pairs"] + ":1000000000"]), "pairs"
    ),
    Case("run.yaml", "pairs NUL", settings_file("lora", "pairs", "a\0b"), "pairs"),
    Case("run.yaml", "pairs 5000 chars", settings_file("lora", "pairs", "a" * 5000), "aaa"),
    *(
        Case("run.yaml", name, settings_file("lora", key, value), key.rpartition(".")[2])
        for name, key, value in NUMBERS
    ),
    Case("run.yaml", "evaluate_every 0", settings_file("lora", "watching.evaluate_every", 0), code=0),
    Case("run.yaml", "save_every 0", settings_file("lora", "watching.save_every", 0), code=0),
    Case("real.yaml", "max_scale_up -1", settings_file("real", "max_scale_up", -1), "max_scale_up"),
    Case("real.yaml", "steps 0", settings_file("real", "steps", 0), "steps"),
]


def surrogate_prompts(folder: Path) -> Arguments:
    (folder / "p.jsonl").write_text('{"prompt": "a red circle", "note": "\\ud83d"}\n')
    return ["sample", "--model", Place.of("model"), "--prompts", "p.jsonl", "--out", "out", "--steps", "1"]


DRAW = ("pairs", "draw", "--model", "@model", "--prompts", "@prompts.jsonl", "--out", "out")
SAMPLE = ("sample", "--model", "@model", "--prompts", "@prompts.jsonl", "--out", "out")
REAL = ("pairs", "real", "--model", "@model", "--photos", "@photos", "--spoil", "generate", "--out", "out")


def evaluated(*more: str) -> Callable[[Path], Arguments]:
    return lambda _: ["evaluate", "--images", f"base={Place.of('images')}", "--autoencoder", Place.of("model"), *more]


OF_DRAW = [
    ("steps", "0"), ("steps", "-1"), ("batch-size", "0"), ("shard-size", "0"), ("shard-size", "-1"),
    ("pairs-per-prompt", "0"), ("pairs-per-prompt", "1000000000"), ("guidance-scale", "nan"),
    ("guidance-scale", "-inf"), ("guidance-scale", "1e400"), ("sizes", "99999992x99999992"), ("device", "cuda"),
    ("device", "mps"), ("device", "foo"), ("device", "meta"), ("device", "xpu"),
]  # fmt: skip
OF_SAMPLE = [("batch-size", "0"), ("steps", "0"), ("batch-size", "-1"), ("steps", "-1"), ("guidance-scale", "nan")]
OF_REAL = [("resolution", "100000"), ("max-scale-up", "nan"), ("steps", "0")]
TYPED = [
    *(Case("cli", f"draw --{k} {v}", typed(*DRAW, f"--{k}={v}"), k.rstrip("s")) for k, v in OF_DRAW),
    *(Case("cli", f"sample --{k} {v}", typed(*SAMPLE, f"--{k}={v}"), k) for k, v in OF_SAMPLE),
    Case("cli", "sweep --compare nothing", typed("sweep", "--compare", "--out", "out"), "compare"),
    Case("cli", "evaluate --replicates 0", evaluated("--out", "out", "--replicates=0"), "replicates"),
    Case("cli", "evaluate --replicates -1", evaluated("--out", "out", "--replicates=-1"), "replicates"),
    Case("cli", "evaluate --out surrogate", evaluated("--out", "o\udc80"), "udc80"),
    *(Case("cli", f"real --{k} {v}", typed(*REAL, f"--{k}={v}"), k) for k, v in OF_REAL),
    Case("cli", "quickstart steps 0", typed("quickstart", "--steps", "0", "--out", "out"), "steps"),
    Case("prompts", "lone surrogate in other field (sample)", surrogate_prompts, "p.jsonl"),
]
