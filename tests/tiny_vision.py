"""Tiny random networks that look at images, saved as the folders that the hub has: CLIP, BLIP and a Qwen2-VL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tiny_text import LETTERS, WORDS, clip_tokenizer, qwen_tokenizer
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForQuestionAnswering,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    DPTConfig,
    DPTForDepthEstimation,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    SwinConfig,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

CLIP_SIDE, CLIP_WIDTH, TEXT_LENGTH = 32, 24, 24
IMAGE_PAD = "<|image_pad|>"
_VISION_TOKENS = ["<|vision_start|>", "<|vision_end|>", IMAGE_PAD, "<|video_pad|>"]
_CHAT = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- for part in message.content %}"
    "{%- if part.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- else %}{{- part.text }}{%- endif %}"
    "{%- endfor %}{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def noise_image(seed: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
    """Coarse coloured noise, which looks different after any resizing."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)


def save_clip(folder: Path, seed: int = 0) -> Path:
    """A CLIPModel of images 32x32, vectors of 24 and 24 tokens, with its tokenizer and preparation of images."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer()
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config={**shape, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": TEXT_LENGTH},
        vision_config={**shape, "image_size": CLIP_SIDE, "patch_size": 8},
        projection_dim=CLIP_WIDTH,
    )
    network = CLIPModel(config)
    with torch.no_grad():
        for weight in (w for w in network.parameters() if w.ndim > 1):
            weight.mul_(3)  # so that what is seen and read matters
        network.logit_scale.fill_(3.0)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": CLIP_SIDE}, crop_size={"height": CLIP_SIDE, "width": CLIP_SIDE}
    ).save_pretrained(folder)
    return folder


def save_dino(folder: Path, seed: int = 0) -> Path:
    """A Dinov2Model of class tokens of 24, whose preparation shrinks to 256 and crops to 224 as the published one."""
    torch.manual_seed(seed)
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    Dinov2Model(Dinov2Config(**shape, image_size=56, patch_size=28)).save_pretrained(folder)
    BitImageProcessorPil(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
    return folder


def save_chat_model(folder: Path, seed: int = 0) -> Path:
    """A Qwen2-VL of images of 28 to 84 pixels a side, in patches of 14, that knows some spellings of yes and no."""
    torch.manual_seed(seed)
    tokenizer = qwen_tokenizer()
    tokenizer.add_tokens(["yes", "Yes", " yes", "no", " No", "yesterday", "not"])
    tokenizer.add_special_tokens({"additional_special_tokens": _VISION_TOKENS})
    tokenizer.chat_template = _CHAT
    places = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
            "initializer_range": 0.3,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": 1,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 14,
        },
        image_token_id=places["image_pad"],
        video_token_id=places["video_pad"],
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=84 * 84, patch_size=14).save_pretrained(folder)
    return folder


def save_blip(folder: Path, seed: int = 0, answers: bool = False) -> Path:
    """A BLIP of images 32x32, whose first token is outside its tokenizer as in the published ones.

    It is a captioner, or one that answers questions with yes or no.
    """
    torch.manual_seed(seed)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS]
    if answers:
        words += ["yes", "no"]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(dict.fromkeys(words))})
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
    config = BlipConfig(
        text_config={
            **shape,
            "vocab_size": len(tokenizer) + 2,
            "encoder_hidden_size": 16,
            "max_position_embeddings": 64,
            "bos_token_id": len(tokenizer),
            "sep_token_id": tokenizer.sep_token_id,
            "eos_token_id": tokenizer.sep_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "initializer_range": 0.5,
        },
        vision_config={**shape, "image_size": 32, "patch_size": 8, "initializer_range": 0.5},
    )
    kind = BlipForQuestionAnswering if answers else BlipForConditionalGeneration
    kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_mask2former(folder: Path, classes: Sequence[str], seed: int = 0) -> Path:
    """A Mask2Former over a tiny Swin, of these classes, with its preparation of images."""
    torch.manual_seed(seed)
    backbone = SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        dim_feedforward=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=6,
        id2label=dict(enumerate(classes)), label2id={name: number for number, name in enumerate(classes)},
    )  # fmt: skip
    network = Mask2FormerForUniversalSegmentation(config)
    with torch.no_grad():
        network.class_predictor.weight.mul_(30)  # so that some classes are likely
    network.save_pretrained(folder)
    Mask2FormerImageProcessorPil().save_pretrained(folder)
    return folder


def save_owl(folder: Path, seed: int = 0) -> Path:
    """An OWLv2 of images 32x32 in patches of 8, which is sure of some boxes, with its tokenizer and preparation."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer("!")
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = Owlv2Config(
        text_config={**shape, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 16},
        vision_config={**shape, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    network = Owlv2ForObjectDetection(config)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim > 1:
                weight.mul_(0.3 if name.startswith("box_head") else 5)  # so that what is seen and read matters
        network.class_head.logit_scale.weight.zero_()
        network.class_head.logit_scale.bias.fill_(5.0)
        network.class_head.logit_shift.weight.zero_()
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Owlv2ImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_dpt(folder: Path, seed: int = 0) -> Path:
    """A DPTForDepthEstimation of images 32x32 in patches of 8, with its preparation of images."""
    torch.manual_seed(seed)
    config = DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
    )  # fmt: skip
    network = DPTForDepthEstimation(config)
    with torch.no_grad():
        for weight in (w for w in network.parameters() if w.ndim > 1):
            weight.mul_(20)  # so that what is seen matters
        network.head.head[-2].bias.fill_(1.0)  # below 0 nothing would be told apart
    network.save_pretrained(folder)
    DPTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
