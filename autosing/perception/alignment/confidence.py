"""How likely a word's time is right, from what the alignment saw: a logistic model for free and one for stamped lyrics, by ears that got used to
the recording or did not.

The chain's own certainty counts frames as if they were independent and so is far too sure. Here it is one measurement of several, and their
weights were fitted (`fit`; `python -m autosing.evaluation.alignment --fit`) to rendered songs under loud bands, so that a score reads as the
probability that the word begins within 0.3 s of its time. Letters: W words, M measurements.
"""

import numpy as np

from autosing.perception.alignment.timing import FRAME_RATE, Sounds, SpokenWord, Timing

MEASUREMENTS = ("one", "certainty", "evidence", "line certainty", "line evidence", "agreement")
WEIGHTS = {
    "free": (-2.62, 1.05, 0.54, 0.61, 1.87, 0.0),
    "stamped": (-0.81, 1.65, -0.02, -0.64, 1.61, 0.46),
    "adapted free": (-3.52, 0.63, 0.88, 0.16, 2.37, 1.64),
    "adapted stamped": (-1.18, 0.69, 0.81, -0.40, 2.10, 0.94),
}
"""A row a model; columns as MEASUREMENTS."""


def measure(timing: Timing, free: Timing, words: tuple[SpokenWord, ...], sounds: Sounds) -> np.ndarray:
    """(W, M) measurements of every word, each of a size about one.

    Args:
        timing: the times to be judged.
        free: the times found without stamps by ears that did not get used to the recording; `timing` itself where these are they.
        sounds: what such ears heard.
    """
    names = {phone for word in words for phone in word.phones}
    sums = {name: np.concatenate([[0.0], np.cumsum(sounds.evidence(name))]) for name in names}
    evidence = np.empty(len(words))
    for i, word in enumerate(words):
        begin = np.round(timing.phone_starts[i] * FRAME_RATE).astype(int).clip(0, len(sounds) - 1)
        end = np.maximum(np.round(timing.phone_ends[i] * FRAME_RATE).astype(int).clip(1, len(sounds)), begin + 1)
        each = [(sums[p][z] - sums[p][a]) / (z - a) for p, a, z in zip(word.phones, begin, end, strict=True)]
        evidence[i] = np.mean(each)
    lines = np.array([word.line for word in words])
    certainty = np.clip(timing.certainty, 1e-3, 1 - 1e-3)
    logit = np.log(certainty / (1 - certainty)) / 3
    agreement = np.zeros(len(words))
    if free is not timing:
        agreement = _line_means(np.exp(-np.abs(timing.starts - free.starts) / 0.3), lines)
    columns = [np.ones(len(words)), logit, evidence, _line_means(logit, lines), _line_means(evidence, lines), agreement]
    return np.stack(columns, axis=1)


def score(measurements: np.ndarray, model: str) -> np.ndarray:
    """(W, M) -> (W,) probabilities by a row of `WEIGHTS`."""
    return 1 / (1 + np.exp(-measurements @ np.array(WEIGHTS[model])))


def fit(measurements: np.ndarray, right: np.ndarray, pull: float = 1.0) -> np.ndarray:
    """Weights (M,) of a logistic model by Newton's method.

    Args:
        measurements: (W, M) of many songs; `right`: (W,) bool, the word was right.
        pull: strength of the pull of every weight towards 0, in words.
    """
    weights = np.zeros(measurements.shape[1])
    for _ in range(25):
        chance = 1 / (1 + np.exp(-measurements @ weights))
        slope = measurements.T @ (right - chance) - pull * weights
        curve = (measurements * (chance * (1 - chance))[:, None]).T @ measurements + pull * np.eye(len(weights))
        weights = weights + np.linalg.solve(curve, slope)
    return weights


def _line_means(values: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """(W,) -> (W,) mean over the words of the same line."""
    sums = np.bincount(lines, weights=values)
    counts = np.bincount(lines)
    return sums[lines] / counts[lines]
