"""A photograph's subject as a segmentation model sees it, loaded through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from contrapose.backbones.networks import read_network
from contrapose.errors import UserError, one_line
from contrapose.photographs.spoil.saliency import FORMULAS, Map, normalised

_BACKGROUND = "background"


class Segmenter:
    """A semantic segmentation model: what is salient is what is not background.

    S = 1 - softmax(logits)[background] where the model tells kinds of things apart, sigmoid(logit) where it has a
    single label; then min-max normalised. U2-Net, RealAlign's own, is not in transformers.
    """

    def __init__(self, folder: str, device: str | torch.device):
        from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

        if not Path(folder).is_dir():
            formulas = ", ".join(FORMULAS)
            raise UserError(f"saliency {folder}: no such folder; name one with a segmentation model, or {formulas}")
        try:
            self._processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model = read_network(AutoModelForSemanticSegmentation, Path(folder), with_leftovers=True)
        except UserError as error:
            raise UserError(f"saliency {error}") from error
        except Exception as error:  # a broken file makes these libraries raise anything at all
            reason = one_line(error)
            raise UserError(f"saliency {folder}: cannot be loaded as a segmentation model: {reason}") from error
        self._model = model.eval().to(device)
        self._device = device
        # a model of one label says how much a pixel is that; one of several has to say which is nothing
        names = [str(model.config.id2label[label]).lower() for label in range(model.config.num_labels)]
        if len(names) > 1 and _BACKGROUND not in names:
            labels = ", ".join(names[:5])
            raise UserError(
                f"saliency {folder}: none of its labels is {_BACKGROUND} ({labels}, ...); use another model"
            )
        self._background = names.index(_BACKGROUND) if len(names) > 1 else None

    @torch.no_grad()
    def __call__(self, photos: Sequence[Image.Image]) -> list[Map]:
        """Maps [H, W] in 0..1 of photographs of one size."""
        inputs = self._processor(images=list(photos), return_tensors="pt").to(self._device)
        logits = self._model(**inputs).logits.cpu()
        size = (photos[0].height, photos[0].width)
        # logits, and not shares, are resized, as the models' own examples do
        logits = nn.functional.interpolate(logits.double(), size=size, mode="bilinear", align_corners=False)
        salience = logits[:, 0].sigmoid() if self._background is None else 1 - logits.softmax(1)[:, self._background]
        return [normalised(each) for each in salience.numpy()]
