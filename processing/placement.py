"""Where the windows of a song are put: pure arithmetic over which moments are sung and where words lie.

Time is cut into slots of 1 / `rate` seconds (by default the frames of the aligner's activity, 20 ms). Dynamic programming picks windows of
one length that never overlap and together are worth the most: the seconds of singing they hold, less `WINDOW_COST` each,
`CUT_WORD_SHARE` of a window for every word that a border cuts (half for the middle, where `--split` cuts) and up to `CUT_SINGING_SHARE` for a
border that lies in singing, which is what keeps borders out of the words of songs without lyrics. Letters: F slots.
"""

import numpy as np

from autosing.song.alignment import Alignment
from autosing.tokens.specs import Seconds

ACTIVITY_RATE = 50
"""Frames a second of the aligner Protocol's activity."""
SUNG = 0.5
"""Activity above this counts as singing."""
MIN_SUNG_SECONDS: Seconds = 8.0
"""A window that is not full of song must hold this much singing."""
WINDOW_COST: Seconds = 1.0
"""Of two ways to hold nearly the same singing, the one with fewer and denser windows."""
CUT_WORD_SHARE = 1 / 30
"""Of the window's length: a word cut from 30 s costs a second of singing. Most words are shorter, so a border moves to the end of one if it can."""
CUT_SINGING_SHARE = 0.2 / 30
NEAR_SECONDS: Seconds = 0.25
"""This far on both sides of a border, singing counts as cut by it."""
EDGE_SECONDS: Seconds = 0.5 / ACTIVITY_RATE
"""A border this near to the edge of a word does not cut it: words that follow each other without a gap can be parted at a slot."""


def sung_frames(activity: np.ndarray, alignment: Alignment, duration: Seconds) -> np.ndarray:
    """(n,) probability of singing at `ACTIVITY_RATE`, words -> (F,) bool, F = ceil(duration x rate): heard as sung, or inside a word."""
    sung = np.zeros(max(1, int(np.ceil(duration * ACTIVITY_RATE - 1e-6))), dtype=bool)
    count = min(len(activity), len(sung))
    sung[:count] = activity[:count] > SUNG
    for word in alignment.words:
        sung[max(0, round(word.start * ACTIVITY_RATE)) : max(0, round(word.end * ACTIVITY_RATE))] = True
    return sung


def pick_windows(
    sung: np.ndarray, duration: Seconds, length: int, min_occupancy: float, alignment: Alignment, rate: int = ACTIVITY_RATE
) -> list[int]:
    """The starts of the best windows, in slots; of plans worth the same, the one that begins earlier.

    Args:
        sung: (F,) sung share of each slot.
        duration: of the song; a window may reach beyond it (a short song, a tail) if it holds `MIN_SUNG_SECONDS`.
        length: of a window, in seconds.
        min_occupancy: a window's sung seconds divided by its seconds of song must reach this.
        alignment: words that should not be cut.
        rate: slots a second.
    """
    total, span = len(sung), length * rate
    before = np.concatenate([[0.0], np.cumsum(sung, dtype=np.float64)]) / rate
    starts = np.arange(total)
    held = before[np.minimum(starts + span, total)] - before[starts]
    available = np.minimum(length, duration - starts / rate)
    enough = min_occupancy * available
    tail = available < length - 1e-9
    enough[tail] = np.maximum(enough[tail], min(MIN_SUNG_SECONDS, length / 2))
    allowed = (available > 0) & (held > WINDOW_COST) & (held >= enough - 1e-9)
    borders = CUT_WORD_SHARE * length * words_cut(alignment, total + span + 1, rate)
    middles = 0.5 * borders[starts + span // 2]
    borders[: total + 1] += CUT_SINGING_SHARE * length * _sung_near(before, rate)
    worth = (held - WINDOW_COST - borders[starts] - borders[starts + span] - middles).tolist()
    best = [0.0] * (total + span + 1)  # the most that windows from this slot on are worth
    taken = [False] * total
    for start in np.flatnonzero(allowed)[::-1].tolist():
        best[start] = worth[start]
    for start in range(total - 1, -1, -1):
        skipped = best[start + 1]
        if allowed[start]:
            value = best[start] + best[start + span]
            taken[start] = value >= skipped - 1e-9
            best[start] = value if taken[start] else skipped
        else:
            best[start] = skipped
    picked, slot = [], 0
    while slot < total:
        if taken[slot]:
            picked.append(slot)
            slot += span
        else:
            slot += 1
    return picked


def words_cut(alignment: Alignment, slots: int, rate: int) -> np.ndarray:
    """(slots,): how many words a border at the beginning of each slot cuts."""
    steps = np.zeros(slots + 1)
    for word in alignment.words:
        first = int(np.floor((word.start + EDGE_SECONDS) * rate + 1e-9)) + 1
        last = int(np.ceil((word.end - EDGE_SECONDS) * rate - 1e-9)) - 1
        if first <= last and last >= 0 and first < slots:
            steps[max(0, first)] += 1
            steps[min(slots, last + 1)] -= 1
    return np.cumsum(steps)[:slots]


def window_id(song: str, start: Seconds) -> str:
    """`<song>_at_<second>`, with as many decimals (two at most) as the second has."""
    return f"{song}_at_{f'{start:.2f}'.rstrip('0').rstrip('.')}"


def _sung_near(before: np.ndarray, rate: int) -> np.ndarray:
    """(F + 1,) singing before each border -> (F + 1,) sung share of the `NEAR_SECONDS` on both sides of each."""
    reach = round(NEAR_SECONDS * rate)
    if reach == 0:
        return np.zeros(len(before))
    places = np.arange(len(before))
    heard = before[np.minimum(places + reach, len(before) - 1)] - before[np.maximum(places - reach, 0)]
    return heard * rate / (2 * reach)
