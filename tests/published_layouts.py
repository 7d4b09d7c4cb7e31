"""Networks in the layout of their authors' files, written from the papers: open_clip's CLIP, and ImageReward's BLIP."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """open_clip's residual block."""

    def __init__(self, width: int, heads: int, wide: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, wide))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(wide, width))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, heads: int, wide: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, wide) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self, side: int, patch: int, width: int, heads: int, wide: int, layers: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((side // patch) ** 2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, heads, wide, layers)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, out) / width**0.5)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        x = self.ln_pre(torch.cat([first, patches], 1) + self.positional_embedding)
        return self.ln_post(self.transformer(x)[:, 0]) @ self.proj


class OpenCLIP(nn.Module):
    """open_clip's CLIP, whose text ends with the largest token."""

    def __init__(self, side: int, patch: int, width: int, heads: int, wide: int, layers: int, out: int, words: int,
                 length: int) -> None:  # fmt: skip
        super().__init__()
        self.visual = Visual(side, patch, width, heads, wide, layers, out)
        self.transformer = Transformer(width, heads, wide, layers)
        self.token_embedding = nn.Embedding(words, width)
        self.positional_embedding = nn.Parameter(torch.randn(length, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, out) / width**0.5)
        self.logit_scale = nn.Parameter(torch.tensor(4.0))
        self.register_buffer("attn_mask", torch.full((length, length), float("-inf")).triu(1))

    def cosine(self, pixels: Tensor, tokens: Tensor, ends: Tensor) -> Tensor:
        x = self.token_embedding(tokens) + self.positional_embedding
        x = self.ln_final(self.transformer(x, self.attn_mask))
        read = x[torch.arange(len(x)), ends] @ self.text_projection
        return F.cosine_similarity(self.visual(pixels), read)


class Attention(nn.Module):
    """BERT's attention, to itself or to something that was seen."""

    def __init__(self, width: int, other: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.self = nn.Module()
        self.self.query = nn.Linear(width, width)
        self.self.key = nn.Linear(other, width)
        self.self.value = nn.Linear(other, width)
        self.output = nn.Module()
        self.output.dense = nn.Linear(width, width)
        self.output.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
        def apart(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = apart(self.self.query(x)), apart(self.self.key(other)), apart(self.self.value(other))
        logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if mask is not None:
            logits = logits.masked_fill(mask[:, None, None] == 0, float("-inf"))
        mixed = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.output.LayerNorm(self.output.dense(mixed) + x)


class TextLayer(nn.Module):
    def __init__(self, width: int, seen: int, heads: int, wide: int) -> None:
        super().__init__()
        self.attention = Attention(width, width, heads)
        self.crossattention = Attention(width, seen, heads)
        self.intermediate = nn.Module()
        self.intermediate.dense = nn.Linear(width, wide)
        self.output = nn.Module()
        self.output.dense = nn.Linear(wide, width)
        self.output.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor, seen: Tensor) -> Tensor:
        x = self.attention(x, x, mask)
        x = self.crossattention(x, seen, None)
        return self.output.LayerNorm(self.output.dense(F.gelu(self.intermediate.dense(x))) + x)


class TextEncoder(nn.Module):
    def __init__(self, width: int, seen: int, heads: int, wide: int, layers: int, words: int, length: int) -> None:
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.word_embeddings = nn.Embedding(words, width)
        self.embeddings.position_embeddings = nn.Embedding(length, width)
        self.embeddings.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.embeddings.register_buffer("position_ids", torch.arange(length)[None])
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(TextLayer(width, seen, heads, wide) for _ in range(layers))

    def forward(self, tokens: Tensor, mask: Tensor, seen: Tensor) -> Tensor:
        places = self.embeddings.position_embeddings.weight[: tokens.shape[1]]
        x = self.embeddings.LayerNorm(self.embeddings.word_embeddings(tokens) + places)
        for layer in self.encoder.layer:
            x = layer(x, mask, seen)
        return x


class SeeingBlock(nn.Module):
    """timm's block of a vision transformer."""

    def __init__(self, width: int, heads: int, wide: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.Module()
        self.attn.qkv = nn.Linear(width, 3 * width)
        self.attn.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Module()
        self.mlp.fc1 = nn.Linear(width, wide)
        self.mlp.fc2 = nn.Linear(wide, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.attn.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        x = x + self.attn.proj(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class VisualEncoder(nn.Module):
    def __init__(self, side: int, patch: int, width: int, heads: int, wide: int, layers: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, (side // patch) ** 2 + 1, width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.ModuleList(SeeingBlock(width, heads, wide) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Head(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2), nn.Linear(128, 64),
            nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ImageRewardNetwork(nn.Module):
    """As its authors nest it: `blip.visual_encoder`, `blip.text_encoder` and `mlp`."""

    def __init__(self, side: int, patch: int, seen: int, width: int, wide: int, layers: int, words: int,
                 length: int) -> None:  # fmt: skip
        super().__init__()
        self.blip = nn.Module()
        self.blip.visual_encoder = VisualEncoder(side, patch, seen, seen // 64, wide, layers)
        self.blip.text_encoder = TextEncoder(width, seen, width // 64, wide, layers, words, length)
        self.mlp = Head(width)

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        seen = self.blip.visual_encoder(pixels)
        return self.mlp(self.blip.text_encoder(tokens, mask, seen)[:, 0])[:, 0]
