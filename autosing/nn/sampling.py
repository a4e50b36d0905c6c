"""Choosing a token from logits: temperature, top-k, top-p, guidance. Randomness comes from the generator passed in."""

import torch
from torch import Tensor


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance on logits: 1 = the conditional ones, more pushes away from the unconditional (Ho, Salimans 2022)."""
    return unconditional + guidance * (conditional - unconditional)


def filter_logits(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """(..., V): everything but the `top_k` likeliest and the smallest set of mass `top_p` becomes -inf; 0 and 1 = no limit."""
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k, -1).values[..., -1:], -torch.inf)
    if top_p < 1.0:
        ordered, order = logits.sort(-1, descending=True)
        probabilities = ordered.softmax(-1)
        outside = probabilities.cumsum(-1) - probabilities > top_p  # the likeliest token always stays
        logits = logits.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), -torch.inf)
    return logits


def sample(
    logits: Tensor, generator: torch.Generator, temperature: float | Tensor = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """(B, V) logits -> (B,) tokens, or (r, B, V) -> (r, B), the same as r calls draw; temperature 0 = the likeliest.

    The token whose exponential clock of rate p rings first: what `torch.multinomial` does, without its checks, each of which waits for the device.

    Args:
        temperature: a number, or a positive tensor that broadcasts.
    """
    if not isinstance(temperature, Tensor) and temperature <= 0:
        return logits.argmax(-1)
    probabilities = filter_logits(logits / temperature, top_k, top_p).softmax(-1)
    clocks = torch.empty_like(probabilities, memory_format=torch.contiguous_format)
    for part in clocks if clocks.dim() > 2 else (clocks,):
        part.exponential_(1, generator=generator)
    return (probabilities / clocks).argmax(-1)


def sample_sure(
    logits: Tensor, generator: torch.Generator, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(..., V) logits -> (...) tokens, and how sure the draw was of each: the logarithm of its probability; temperature 0 = the likeliest.

    One uniform number a token, read off the cumulated probabilities: a whole song's tokens are drawn at once.
    """
    probabilities = filter_logits(logits / temperature if temperature > 0 else logits, top_k, top_p).softmax(-1)
    if temperature <= 0:
        best = probabilities.max(-1)
        return best.indices, best.values.log()
    heaped = probabilities.cumsum(-1)
    drawn = torch.rand((*logits.shape[:-1], 1), generator=generator, device=logits.device) * heaped[..., -1:]
    chosen = torch.searchsorted(heaped, drawn, right=True).clamp(max=logits.shape[-1] - 1)
    return chosen[..., 0], probabilities.gather(-1, chosen)[..., 0].clamp(min=1e-30).log()
