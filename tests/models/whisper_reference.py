"""The models of WhisperSpeech and AutoSing once more, slowly and under the names of their files, to test the conversion without them.

Arithmetic by the formulas: attention from explicit scores, rotations from complex numbers, one lane after the other.
"""

import math

import torch
from torch import Tensor, nn


def turn(x: Tensor, positions: Tensor | None) -> Tensor:
    """(B, H, S, E): the halves as complex numbers, turned by position / 10000^(2 i / E)."""
    if positions is None:
        return x
    half = x.shape[-1] // 2
    angles = positions[:, None] * 10_000.0 ** (-torch.arange(half) / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], -1)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, mult: float):
        super().__init__()
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)
        self.heads, self.scale = heads, mult * 8 / (width // heads)

    def forward(self, x: Tensor, at: Tensor | None, source: Tensor, source_at: Tensor | None, causal: bool = False) -> Tensor:
        q, k, v = (layer(s).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer, s in ((self.query, x), (self.key, source), (self.value, source)))
        scores = turn(q, at) @ turn(k, source_at).mT * self.scale
        if causal:
            scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -math.inf)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, mult: float, ffn: int, sources: int):
        super().__init__()
        self.attn, self.attn_ln, self.mlp_ln = Attention(width, heads, mult), nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, ffn * width), nn.GELU(), nn.Linear(ffn * width, width))
        if sources:
            self.cross_attn, self.cross_attn_ln = Attention(width, heads, mult), nn.LayerNorm(width)
        if sources > 1:
            self.cross_attn_two = Attention(width, heads, mult)
        self.sources = sources

    def forward(self, x: Tensor, at: Tensor | None, causal: bool, sources: list[tuple[Tensor, Tensor | None]]) -> Tensor:
        y = self.attn_ln(x)
        x = x + self.attn(y, at, y, at, causal)
        if self.sources:
            y = self.cross_attn_ln(x)
            one = self.cross_attn(y, at, *sources[0])
            x = x + (one if self.sources == 1 else 0.8 * one + 0.2 * self.cross_attn_two(y, at, *sources[1]))
        return x + self.mlp(self.mlp_ln(x))


class Codes(nn.Module):
    def __init__(self, codes: int, narrow: int, width: int, special: int, shared: nn.Embedding | None = None):
        super().__init__()
        self.main = nn.Embedding(codes, narrow)
        if narrow != width:
            self.emb_to_hidden, self.hidden_to_emb = nn.Linear(narrow, width), nn.Linear(width, narrow)
        if special:
            self.special = shared or nn.Embedding(special, width)
        self.codes = codes

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.main(ids.clamp(max=self.codes - 1))
        rows = self.emb_to_hidden(rows) if hasattr(self, "emb_to_hidden") else rows
        if not hasattr(self, "special"):
            return rows
        return torch.where((ids >= self.codes)[..., None], self.special((ids - self.codes).clamp(min=0)), rows)

    def score(self, hidden: Tensor) -> Tensor:
        narrow = self.hidden_to_emb(hidden) if hasattr(self, "hidden_to_emb") else hidden
        return torch.cat([narrow @ self.main.weight.T, hidden @ self.special.weight.T], -1)


class Lanes(nn.Module):
    def __init__(self, lanes: int, codes: int, narrow: int, width: int):
        super().__init__()
        made: list[Codes] = []
        for _ in range(lanes):
            made.append(Codes(codes, narrow, width, 2, made[0].special if made else None))
        self.embeddings = nn.ModuleList(made)

    def forward(self, grid: Tensor) -> Tensor:
        total = self.embeddings[0](grid[:, 0])
        for lane in range(1, len(self.embeddings)):
            total = total + self.embeddings[lane](grid[:, lane])
        return total


class Stack(nn.Module):
    """`layers` and `ln_post` under one name, as decoders and the text encoder have them."""

    def __init__(self, blocks: list[Block], width: int):
        super().__init__()
        self.layers, self.ln_post = nn.ModuleList(blocks), nn.LayerNorm(width)

    def forward(self, x: Tensor, at: Tensor | None, causal: bool, sources: list) -> Tensor:
        return run(self.layers, self.ln_post, x, at, causal, sources)


def run(layers: nn.ModuleList | nn.Sequential, norm: nn.Module, x: Tensor, at: Tensor | None, causal: bool, sources: list) -> Tensor:
    for layer in layers:
        x = layer(x, at, causal, sources)
    return norm(x)


class T2S(nn.Module):
    def __init__(self, music: bool, heads: int = 2, mult: float = 1.0):
        super().__init__()
        width = heads * 64
        self.encoder = Stack([Block(width, heads, mult, 1, 0)], width)
        self.encoder.embedding = Codes(256, 32, width, 0)
        self.encoder.register_buffer("positional_embedding", torch.randn(20, width))
        self.embeddings = nn.Module()
        self.embeddings.embedding = Codes(40, 16, width, 1)
        self.embeddings.register_buffer("positional_embedding", torch.randn(30, width))
        self.lang_embeddings, self.cps_embeddings = nn.Embedding(5, width), nn.Embedding(32, width)
        self.decoder = Stack([Block(width, heads, mult, 1, 2 if music else 1) for _ in range(2)], width)
        if music:
            self.music_embds = Lanes(3, 11, width, width)
            self.music_encoder = nn.Sequential(Block(width, heads, mult, 1, 0))
            self.ln_post_music = nn.LayerNorm(width)
        self.width, self.music = width, music

    def forward(self, text: Tensor, rate: Tensor, language: Tensor, previous: Tensor, music: Tensor | None) -> Tensor:
        xa = self.encoder.embedding(text) + self.lang_embeddings(language)[:, None] + self.encoder.positional_embedding[: text.shape[1]]
        xa = self.encoder(xa, None, True, [])
        at = [torch.arange(n).float() if self.music else None for n in (previous.shape[1], text.shape[1])]
        sources = [(xa, at[1])]
        if self.music:
            heard = torch.arange(music.shape[-1]).float()
            sources.append((run(self.music_encoder, self.ln_post_music, self.music_embds(music), heard, False, []), heard))
        speed = self.cps_embeddings((rate / 20 * 32).long().clamp(max=31))[:, None]
        x = self.embeddings.embedding(previous) + self.embeddings.positional_embedding[: previous.shape[1]] + speed
        return self.embeddings.embedding.score(self.decoder(x, at[0], True, sources)) * 0.35 * 192 / self.width


class S2A(nn.Module):
    def __init__(self, music: bool, own_tables: bool = False, heads: int = 2, mult: float = 0.3, stride: int = 3):
        super().__init__()
        width = heads * 64
        self.semantic_embedding, self.emb_to_hidden = nn.Embedding(41, 16), nn.Linear(16, width)
        self.spk_to_hidden = nn.Linear(24, width)
        self.encoder = nn.Sequential(Block(width, heads, mult, 2, 0))
        self.ln_post = nn.LayerNorm(width)
        self.embds = Lanes(3, 11, width, width)
        self.decoder = Stack([Block(width, heads, mult, 2, 2 if music else 1) for _ in range(2)], width)
        self.head = nn.Module()
        self.head.splitter = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU())
        if music:
            self.music_encoder = nn.Sequential(Block(width, heads, mult, 2, 0))
            self.ln_post_music = nn.LayerNorm(width)
        if own_tables:
            self.music_embds = Lanes(3, 11, width, width)
        self.register_buffer("val_true", torch.zeros(3))
        self.width, self.music, self.stride = width, music, stride

    def forward(self, semantic: Tensor, speaker: Tensor, previous: Tensor, music: Tensor | None, positions: Tensor) -> Tensor:
        tokens = torch.arange(semantic.shape[1]).float()
        xa = run(self.encoder, self.ln_post, self.emb_to_hidden(self.semantic_embedding(semantic)), tokens, False, [])
        xa = xa + self.spk_to_hidden(speaker / speaker.norm(dim=-1, keepdim=True))[:, None]
        sources = [(xa, tokens * self.stride)]
        if self.music:
            heard = torch.arange(music.shape[-1]).float()
            tables, causal = (self.music_embds, True) if hasattr(self, "music_embds") else (self.embds, False)
            sources.append((run(self.music_encoder, self.ln_post_music, tables(music), heard, causal, []), heard))
        hidden = self.head.splitter(self.decoder(self.embds(previous), positions.float(), True, sources)).unflatten(-1, (3, -1))
        scores = [table.score(hidden[..., lane, :]) for lane, table in enumerate(self.embds.embeddings)]
        return torch.stack(scores, 1) * 5.6 * 192 / self.width
