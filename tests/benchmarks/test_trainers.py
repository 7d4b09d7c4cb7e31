"""The trainers side by side; in the place of the authors' code is a small one with its interface."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_precision_a_process")]

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

CLONE = {
    "ddspo/__init__.py": "",
    "ddspo/args.py": """
from argparse import ArgumentParser
def parse_args():
    parser = ArgumentParser()
    for name in ("model_type", "pretrained_model_name_or_path", "train_data_dir", "lr_scheduler"):
        parser.add_argument("--" + name)
    parser.add_argument("--only_cfg", action="store_true")
    for name, default in (("train_batch_size", 1), ("lr_warmup_steps", 500)):
        parser.add_argument("--" + name, type=int, default=default)
    numbers = {"beta_dpo": 5000, "learning_rate": 1e-8, "adam_beta1": 0.9, "adam_beta2": 0.999}
    numbers |= {"adam_weight_decay": 0.01, "adam_epsilon": 1e-8, "max_grad_norm": 1.0}
    for name, default in numbers.items():
        parser.add_argument("--" + name, type=float, default=default)
    return parser.parse_args()
""",
    "ddspo/dpo.py": """
import torch
def dpo_loss(predicted, reference, target, beta, times):
    errors = [(p.float() - target).square().mean((1, 2, 3)).chunk(2) for p in (predicted, reference)]
    reward = [of_reference - of_trainee for of_trainee, of_reference in zip(*errors)]
    return -torch.nn.functional.logsigmoid(beta / 2 * (reward[0] - reward[1])).mean(), {}
""",
    "ddspo/adapters/__init__.py": """
def get_adapter(model_type):
    from .sd import Adapter
    return Adapter()
""",
    "ddspo/adapters/sd.py": """
import json
from pathlib import Path
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer
class Adapter:
    def load(self, args, accelerator):
        model = Path(args.pretrained_model_name_or_path)
        self.tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
        self.encoder = CLIPTextModel.from_pretrained(model / "text_encoder").requires_grad_(False)
        self.scheduler = DDPMScheduler.from_pretrained(model / "scheduler")
        self.reference = UNet2DConditionModel.from_pretrained(model / "unet").requires_grad_(False)
        return UNet2DConditionModel.from_pretrained(model / "unet")
    def place_frozen(self, accelerator, dtype): pass
    def make_dataloader(self, args):
        folder = Path(args.train_data_dir)
        rows = []
        for line in map(json.loads, (folder / "metadata.jsonl").open()):
            latents = [load_file(folder / "latents" / line[side])["latent"] for side in ("pos_file", "neg_file")]
            rows.append((torch.cat(latents), line["prompt"], line["neg_prompt"], torch.tensor([9]), torch.ones(1)))
        return torch.utils.data.DataLoader(rows, args.train_batch_size, drop_last=True, collate_fn=self.collate)
    def collate(self, rows):
        latents, own, degraded, times, _ = zip(*rows)
        texts = [self.tokenizer(list(texts), padding="max_length", return_tensors="pt") for texts in (own, degraded)]
        return {"latents": torch.stack(latents), "times": torch.cat(times), "texts": [t.input_ids for t in texts]}
    def training_step(self, network, batch, args, dtype, device):
        x = torch.cat(batch["latents"].chunk(2, 1))
        t = batch["times"].repeat(2)
        x = self.scheduler.add_noise(x, torch.randn_like(x), t)
        own, degraded = (self.encoder(ids)[0] for ids in batch["texts"])
        with torch.no_grad():
            target = self.reference(x, t, torch.cat([own, degraded])).sample
            reference = self.reference(x, t, own.repeat(2, 1, 1)).sample
        return network(x, t, own.repeat(2, 1, 1)).sample, reference, target, t
""",
}


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The benchmark's module, found as when it is run as a script."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("trainers")
    for name in ("narrow", "step", "trainers", "authors", *(name for name in sys.modules if name.startswith("ddspo"))):
        sys.modules.pop(name, None)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name, text in CLONE.items():
        path = tmp_path / "clone" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "clone"


def test_the_trainer_is_measured_beside_a_plain_loop_and_the_authors(
    trainers: ModuleType, clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    agree = trainers.agree
    agreements = []
    monkeypatch.setattr(trainers, "agree", lambda *named: agreements.append(agree(*named)) or agreements[-1])
    results = trainers.main(["--tiny", "--repeats", "1", "--pairs", "2", "--authors", str(clone)])
    assert list(results["tiny", "LoRA"]) == ["ours", "in turn", "plain"]
    assert list(results["tiny", "full"]) == ["ours", "in turn", "plain", "authors"]
    for turns in results.values():
        for side, [turn] in turns.items():
            assert turn.wall > 0 and turn.cpu > 0 and 0 <= turn.waited < turn.wall
            assert (turn.waited > 0) == (side in ("ours", "in turn"))
    printed = capsys.readouterr().out
    assert "waits for data" in printed and "tiny: ours and authors on the same pairs, times and noise" in printed
    [agreement] = agreements
    assert agreement.losses[-1][0] < 0.6 < agreement.losses[0][0]
    assert all(ours == pytest.approx(theirs, rel=1e-3) for ours, theirs in agreement.losses)
    assert agreement.apart < 0.01


def test_a_folder_that_is_no_clone_is_refused(
    trainers: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        trainers.main(["--authors", str(tmp_path)])
    assert "is no clone of github.com/KU-MIIL/DDSPO: it has no ddspo/args.py" in capsys.readouterr().err
