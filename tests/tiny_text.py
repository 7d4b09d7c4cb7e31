"""Tiny random text encoders and the tokenizers they read, built without any download."""

from __future__ import annotations

import inspect
import re
import string
from collections.abc import Iterable

from diffusers import SanaPipeline
from tokenizers import pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from contrapose.worlds.shapes.blueprint import TEXT_LENGTH, build_tokenizer

VOCABULARY = """
a an the of and one two three four red blue green yellow white purple black orange pink circle circles square squares
triangle triangles star stars shape shapes above below left right inside on under to is image
"""
WORDS = VOCABULARY.split()
LETTERS = sorted(set(string.printable) - set(string.whitespace))
# Qwen3's turns, without its tools; `enable_thinking=False` puts an empty thought before the answer.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif %}"
    "{%- endif %}"
)


def clip_tokenizer(pad_token: str | None = None) -> CLIPTokenizer:
    """The shapes world's tokenizer, padded with its last token unless told: the second one of SDXL and SD3 has `!`."""
    tokenizer = build_tokenizer()
    if pad_token is not None:
        tokenizer.pad_token = pad_token
    return tokenizer


def clip_encoder(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModel:
    return CLIPTextModel(_clip_config(tokenizer, width))


def projecting_clip_encoder(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(_clip_config(tokenizer, width))


def _clip_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def t5_tokenizer() -> T5Tokenizer:
    """A Unigram tokenizer: a known word is one piece, another is its letters, and what is neither is unknown."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [("▁", -4.0), *((letter, -8.0) for letter in LETTERS), *((f"▁{word}", -2.0) for word in WORDS)]
    return T5Tokenizer(vocab=[*special, *pieces], extra_ids=0, model_max_length=512)


def t5_encoder(tokenizer: T5Tokenizer, width: int) -> T5EncoderModel:
    """An encoder like T5 v1.1's: gated, with relative positions, so of any length."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=width // 2,
        d_ff=2 * width,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return T5EncoderModel(config)


def gemma_tokenizer() -> GemmaTokenizer:
    """A BPE tokenizer that starts with `<bos>`, falls back to bytes, and pads on the right as SANA has it."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    merges = word_merges([*WORDS, *_instruction_words()], "▁")
    letters = sorted({*LETTERS, "▁", "\n"})
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *("".join(merge) for merge in merges)]
    return GemmaTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=merges,
        add_bos_token=True,
        padding_side="right",
    )


def gemma_encoder(tokenizer: GemmaTokenizer, width: int) -> Gemma2Model:
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=width // 2,
        query_pre_attn_scalar=width // 2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return Gemma2Model(config)


def qwen_tokenizer(template: str = "") -> Qwen2Tokenizer:
    """A byte-level BPE tokenizer, padded on the right, with a chat template of Qwen3's form.

    Words of `template`, such as one that prompts are put into, are one piece each too.
    """
    text = re.sub(r"<\|\w+\|>", "\n", template)
    spaced = re.findall(r"(?<= )\w+", text)
    first = re.findall(r"^\w+", text, re.MULTILINE)
    merges = [*word_merges([*WORDS, *spaced], "Ġ"), *word_merges(first, "")]
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(merge) for merge in merges)]
    tokenizer = Qwen2Tokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=merges,
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=131072,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def qwen_encoder(tokenizer: Qwen2Tokenizer, width: int) -> Qwen3Model:
    return Qwen3Model(_qwen_config(tokenizer, width, layers=3, heads=2))


def qwen_writer(tokenizer: Qwen2Tokenizer, width: int) -> Qwen3ForCausalLM:
    """One of as many layers as FLUX.2's pipeline looks into; one head each, since they read hundreds of pads."""
    return Qwen3ForCausalLM(_qwen_config(tokenizer, width, layers=27, heads=1))


def _qwen_config(tokenizer: Qwen2Tokenizer, width: int, layers: int, heads: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=1,
        head_dim=width // heads,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def qwen_seeing_encoder(tokenizer: Qwen2Tokenizer, width: int) -> Qwen2_5_VLForConditionalGeneration:
    """A Qwen2.5-VL, whose eyes are there and see nothing."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [width // 12] * 3},
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": width,
        "fullatt_block_indexes": [0],
    }
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))


def word_merges(words: Iterable[str], space: str) -> list[tuple[str, str]]:
    """Merges that grow each word from the space before it, letter by letter, so that no two words can conflict."""
    marked = {space + word for word in words}
    starts = {word[:end] for word in marked for end in range(2, len(word) + 1)}
    return [(start[:-1], start[-1]) for start in sorted(starts, key=lambda start: (len(start), start))]


def _instruction_words() -> list[str]:
    """Words of the instruction that SanaPipeline puts before each prompt, which letters alone would make very long."""
    lines = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    return sorted({word for word in " ".join(lines).split() if set(word) <= set(LETTERS)})
