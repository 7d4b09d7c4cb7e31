"""The training step of the authors' own code, out of a clone of KU-MIIL/DDSPO that is named on the command line.

What makes a batch, the predictions and the loss is theirs, imported from that folder, as are its settings' defaults
(AdamW, clipping); the few lines around them, which their `train.py` has in its `main`, are written here, without its
progress bar and logs. Nothing of theirs is kept here.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import Tensor

from contrapose.backbones.loading import DTYPES
from contrapose.store.mixture import Mixture
from contrapose.train.data import Order
from contrapose.train.loop import Trainer

Batch = dict[str, Any]
NEEDED = ("ddspo/args.py", "ddspo/dpo.py", "ddspo/adapters/sd.py")


def save_as_theirs(folder: Path, store: Mixture) -> None:
    """Write stored pairs as their trainer reads them: a file of metadata, and two files of latents a pair."""
    (folder / "latents").mkdir(parents=True)
    lines: list[str] = []
    for index, record in enumerate(store.records):
        names = {"pos_file": f"{index}.safetensors", "neg_file": f"{index}_neg.safetensors"}
        for name, side in zip(names.values(), ("winner", "loser"), strict=True):
            save_file({"latent": store.latent(side, index).float().contiguous()}, folder / "latents" / name)
        lines.append(json.dumps({"id": str(index), "prompt": record.prompt, "neg_prompt": record.degraded, **names}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def imported(clone: Path, name: str) -> ModuleType:
    """A module of theirs."""
    with patch.object(sys, "path", [str(clone), *sys.path]):
        return importlib.import_module(name)


class Authors:
    """Their trainer on the model and the pairs of one of ours, which it reads in `data`, with the same rate, beta and
    batch."""

    def __init__(self, clone: Path, model: Path, trainer: Trainer, data: Path):
        run = trainer.run
        if not data.exists():
            save_as_theirs(data, trainer.groups.store)
        self.precision = DTYPES[run.precision]
        self.device = trainer.accelerator.device
        words = ["train", "--model_type", "sd15", "--pretrained_model_name_or_path", str(model)]
        words += ["--train_data_dir", str(data), "--only_cfg", "--lr_scheduler", "constant", "--lr_warmup_steps", "0"]
        words += ["--train_batch_size", str(run.optimisation.batch_size), "--beta_dpo", str(vars(run.method)["beta"])]
        words += ["--learning_rate", str(run.optimisation.learning_rate)]
        with patch.object(sys, "argv", words):
            self.args = imported(clone, "ddspo.args").parse_args()
        self.loss_of = imported(clone, "ddspo.dpo").dpo_loss
        self.adapter = imported(clone, "ddspo.adapters").get_adapter("sd15")
        self.accelerator = trainer.accelerator
        network = self.adapter.load(self.args, self.accelerator)
        betas = (self.args.adam_beta1, self.args.adam_beta2)
        decay = self.args.adam_weight_decay
        optimizer = torch.optim.AdamW(
            network.parameters(), self.args.learning_rate, betas, self.args.adam_epsilon, weight_decay=decay
        )
        self.loader = self.adapter.make_dataloader(self.args)
        self.network, self.optimizer, prepared = self.accelerator.prepare(network, optimizer, self.loader)
        self.batches = _endless(prepared)
        self.adapter.place_frozen(self.accelerator, self.precision)
        self.network.train()

    def step(self) -> float:
        """A step on the next batch of their own loader."""
        return self.take(next(self.batches))

    def take(self, batch: Batch) -> float:
        """A step on a batch; its loss."""
        predicted, reference, target, times = self.adapter.training_step(
            self.network, batch, self.args, self.precision, self.device
        )
        loss, _ = self.loss_of(predicted, reference, target, self.args.beta_dpo, times)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.network.parameters(), self.args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def take_ours(self, trainer: Trainer, positions: range) -> float:
        """A step on what our trainer sees at these positions: pairs, prompts, times and noise."""
        groups = trainer.groups
        group = groups.training_batch(positions, self.device)
        order = Order(groups.store, groups.training, groups.seed, "epoch")
        sides = [group.samples[side] for side in ("winner", "loser")]
        rows = []
        for row, position in enumerate(positions):
            record = groups.store.records[order(position)]
            latents = torch.cat([side.latent[row] for side in sides])
            rows.append((latents, record.prompt, record.degraded, group.t[row : row + 1], torch.ones(1)))
        noise = torch.cat([side.noise for side in sides])
        with patch.object(torch, "randn_like", lambda _: noise):  # which is all that their step draws
            return self.take(self.loader.collate_fn(rows))

    def weights(self) -> Tensor:
        """Their network's weights, in a row."""
        return torch.cat([weight.detach().flatten() for weight in self.network.parameters()])


def _endless(loader: Any) -> Iterator[Batch]:
    while True:
        yield from loader
