"""What a request sings when: its lyrics, how much of its reference they take, and the plan that lays them over it.

Pure functions over what is read and heard; how lines are placed is `plan.py`, what can be sung of them `words.py`. Times are seconds from
`start_seconds` of the reference on. Letters: C channels, n samples.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from autosing.errors import ConfigError
from autosing.singing.plan import LyricLine, Plan, phrases_of, place_evenly, place_in_halves, place_on_phrases, place_stamped
from autosing.singing.reference import Reference
from autosing.singing.request import LONGEST_SECONDS, SHORTEST_SECONDS, SingRequest
from autosing.singing.words import Need, openings, read_singable
from autosing.song import audio
from autosing.song.lyrics import Lyrics
from autosing.tokens.specs import Seconds


def lyrics_of(request: SingRequest, pronounce: Callable[[str], Sequence[str]]) -> tuple[Lyrics, str]:
    """What of the lyrics can be sung, and a sentence on what cannot ("" if nothing).

    Raises:
        ConfigError: nothing can, or something cannot and the request is strict.
    """
    lyrics, note = read_singable(request.text, pronounce)
    if note and request.strict:
        raise ConfigError(f"--lyrics: {note}; leave --strict out to sing the rest")
    if not lyrics.lines and request.semantic_file is None:
        raise ConfigError(f"--lyrics: {note}, and nothing else is left to sing; write the words in Latin letters")
    return lyrics, note and f"--lyrics: {note}; the rest is sung"


def seconds_to_hear(request: SingRequest, lyrics: Lyrics, need: Need) -> Seconds:
    """How much of the reference to listen to: no more than the lyrics can take."""
    if request.length_seconds is not None or request.in_halves or request.semantic_file is not None:
        return request.most_seconds
    if lyrics.stamped:
        last = lyrics.lines[-1]
        return max(SHORTEST_SECONDS, (last.start or 0.0) - request.start_seconds + 1.5 * need(last.text) + 4.0)
    return 20.0 + 2.5 * sum(need(line.text) for line in lyrics.lines)


def plan_of(request: SingRequest, lyrics: Lyrics, reference: Reference | None, available: Seconds, need: Need) -> Plan:
    """When each of the `lyrics` is sung in the `available` time.

    Raises:
        ConfigError: their stamps lie outside it, or the song would be too long.
    """
    if lyrics.stamped:
        return _stamped(request, lyrics, reference, available, need)
    given = request.length_seconds is not None
    opens = openings(request.text)
    if len(opens) != len(lyrics.lines):
        opens = (True,) + (False,) * len(lyrics.lines)
    lines = [LyricLine(line.text, line.section, opening) for line, opening in zip(lyrics.lines, opens, strict=False)]
    phrases = phrases_of(reference.activity) if reference is not None and reference.has_voice else []
    if request.in_halves:
        loudness = _loudness(reference, 4.0) if reference is not None else lambda _: 0.0
        return Plan(place_in_halves(lines, phrases, available, need, loudness), available)
    if phrases:
        assert reference is not None
        placed = place_on_phrases(lines, phrases, available, need, _loudness(reference), fill=given)
    else:
        placed = place_evenly(lines, 0.0, available, need, spread=given)
    return Plan(placed, available if given else max(SHORTEST_SECONDS, min(available, placed[-1].end + 2.0)))


def _stamped(request: SingRequest, lyrics: Lyrics, reference: Reference | None, available: Seconds, need: Need) -> Plan:
    given = request.length_seconds is not None
    plan = place_stamped(lyrics, request.start_seconds, available if reference is not None or given else None, need)
    end = plan.seconds if given or reference is None else min(available, plan.lines[-1].end + 2.0)
    if end > LONGEST_SECONDS:
        raise ConfigError(
            f"--lyrics: by its stamps the song ends at {request.start_seconds + end:.0f} s, more than the {LONGEST_SECONDS:g} s from --start-time "
            "on that a song may last; give other stamps, --start-time or --length"
        )
    return Plan(plan.lines, max(end, min(SHORTEST_SECONDS, plan.seconds)), plan.notes)


def _loudness(reference: Reference, span: Seconds = 8.0) -> Callable[[Seconds], float]:
    """How loud the song is in the `span` after a time, in standard deviations from its mean."""
    mix = audio.mono(reference.band + reference.vocals)
    hop = reference.rate // 2
    blocks = mix[: mix.shape[-1] // hop * hop].reshape(-1, hop).square().mean(1)
    level = 10 * torch.log10(blocks + 1e-8).numpy()
    width = int(2 * span)
    ahead = np.array([level[i : i + width].mean() for i in range(len(level))])
    mean, deviation = (float(ahead.mean()), float(ahead.std())) if len(ahead) else (0.0, 0.0)
    if deviation < 1.0:  # dB: nothing stands out
        return lambda _: 0.0
    return lambda t: float((ahead[min(len(ahead) - 1, int(2 * t))] - mean) / deviation)
