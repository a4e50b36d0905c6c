"""The figures of the embedded default as a table: where each stands in an evaluation's JSON, which way is better, and what was asked of it.

The bars, the comparison with an earlier run and the tables of MODEL_CARD.md are all made from `FIGURES`; a new figure is measured in its
section's module and gets one row here. A value in the JSON is a number, whose 95 % interval may stand beside it under "intervals", or an
object with `value`, `low` and `high`. No model is imported here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: its key under "bars", and in `shipped.json`.
        title: what people call it.
        path: keys from "figures" down; the first is the section.
        better: "<=" less is better, ">=" more is.
        asked: the bar, on the side of `better`; None = reported alone.
        unit: behind the number.
        digits: after the point, as people read it.
    """

    name: str
    title: str
    path: tuple[str, ...]
    better: str
    asked: float | None = None
    unit: str = ""
    digits: int = 3


def _figures(section: str, *rows: tuple[Any, ...]) -> tuple[Figure, ...]:
    """Rows of (name, title, path below the section, better, asked, unit, digits), the last three optional."""
    return tuple(Figure(name, title, (section, *path.split(".")), *rest) for name, title, path, *rest in rows)


FIGURES: tuple[Figure, ...] = (
    *_figures(
        "codec",
        ("codec_kbps", "bit rate", "kbps", "<=", 2.0, "kbit/s", 2),
        ("codec_encode_real_time_factor", "encoding, share of real time on one core", "rendered.encode_rtf", "<=", 0.1),
        ("codec_decode_real_time_factor", "decoding, share of real time on one core", "rendered.decode_rtf", "<=", 0.05),
        ("codec_phone_error_original", "phone error of rendered vocals before coding", "rendered.phone_error.original", "<="),
        ("codec_phone_error_uncoded", "the same, analysis and synthesis alone", "rendered.phone_error.uncoded", "<="),
        ("codec_phone_error", "the same, coded", "rendered.phone_error.coded", "<="),
        ("codec_phone_error_added", "phone error that coding adds", "rendered.phone_error.added", "<=", 0.05),
        ("codec_log_mel_db", "log-mel distance, rendered vocals", "rendered.log_mel_db", "<=", None, "dB", 2),
        ("codec_f0_off_50", "F0 off by more than 50 cents, rendered vocals, share of frames", "rendered.f0_off_50", "<=", 0.05),
        ("codec_f0_off_50_separated", "the same, separated vocals", "rendered_separated.f0_off_50", "<=", 0.05),
        ("codec_phone_error_added_separated", "phone error that coding adds to separated vocals", "rendered_separated.phone_error.added", "<="),
        ("codec_real_phone_error_added", "real a cappella: other phones heard after coding", "real.phone_error.added", "<="),
        ("codec_real_log_mel_db", "real a cappella: log-mel distance", "real.log_mel_db", "<=", None, "dB", 2),
        ("codec_real_f0_off_50", "real a cappella: F0 off by more than 50 cents", "real.f0_off_50", "<="),
    ),
    *_figures(
        "alignment",
        ("onset_rendered_vocals_s", "mean word onset error, rendered vocals, raw lyrics", "rendered.vocals/none.onset_mean", "<=", 0.015, "s"),
        ("onset_rendered_mixture_s", "the same, rendered mixtures", "rendered.mixture/none.onset_mean", "<=", 0.025, "s"),
        ("onset_rendered_mixture_separated_first_s", "the same, mixtures separated first", "rendered.separated/none.onset_mean", "<=", None, "s"),
        ("real_pco_line_starts", "real mixtures, line start stamps: words within 0.3 s, mean over songs", "real.mixture/starts.pco", ">=", 0.92),
        ("real_pco_even_spread", "the same, words spread evenly from the stamps", "real.mixture/starts.even.pco", ">="),
        ("real_songs_worse_than_even_spread", "songs worse than even spread", "real.mixture/starts.songs_worse_than_even", "<=", 0, "", 0),
        ("real_mean_pco_over_even_spread", "gain over even spread", "real.over_even_spread", ">=", 0.0),
        (
            "real_mean_pco_over_even_spread_to_line_ends", "gain over even spread that also knows where lines end",
            "real.over_even_spread_to_line_ends", ">=", 0.0,
        ),
        ("real_pco_raw_english", "real English mixtures, raw lyrics: words within 0.3 s", "real_english.mixture/none.pco", ">=", 0.6),
        ("real_pco_raw", "real mixtures of all languages, raw lyrics: words within 0.3 s", "real.mixture/none.pco", ">="),
        ("trust_auc_real_lines", "trust of real lines, AUC against their true errors", "real.mixture/starts.line_auc", ">=", 0.85),
        ("singing_activity_f1_real", "singing activity of real mixtures, F1", "real.mixture/none.activity_f1", ">=", 0.9),
        ("aligner_real_time_factor", "aligning, share of real time on one core", "real.mixture/none.one_core_real_time_factor", "<=", 0.05),
    ),
    *_figures(
        "semantic",
        ("semantic_read_out_clean", "phones read from the tokens, clean rendered vocals, share of frames", "clean.own.frame_accuracy", ">=", 0.92),
        ("semantic_read_out_leaking", "the same with leakage", "leaking.own.frame_accuracy", ">="),
        ("semantic_singer_accuracy", "singer named from five seconds of tokens by a linear probe", "singer.tokens.accuracy", "<="),
        ("semantic_singer_accuracy_log_mel", "the same from log-mel spectra", "singer.log_mel.accuracy", ">="),
        ("semantic_singer_chance", "the same by chance", "singer.tokens.chance", "<="),
        ("semantic_melody_correlation", "melody read from the tokens by a linear probe, correlation with F0", "melody.tokens.correlation", "<="),
        ("semantic_melody_correlation_log_mel", "the same from log-mel spectra", "melody.log_mel.correlation", ">="),
    ),
    *_figures(
        "separation",
        ("separation_rendered_improvement_db", "rendered songs, vocals", "rendered.mean.vocals_improvement_db", ">=", 8.0, "dB", 1),
        (
            "separation_rendered_accompaniment_improvement_db", "rendered songs, accompaniment",
            "rendered.mean.accompaniment_improvement_db", ">=", 8.0, "dB", 1,
        ),
        ("separation_real_worst_improvement_db", "worst of the real songs, vocals", "real.worst_improvement_db", ">=", 3.0, "dB", 1),
        (
            "separation_real_worst_accompaniment_improvement_db", "worst of the real songs, accompaniment",
            "real.worst_accompaniment_improvement_db", ">=", 3.0, "dB", 1,
        ),
        ("separator_real_time_factor", "separating, share of real time on one core", "rendered.mean.one_core_real_time_factor", "<=", 0.3),
        ("beside_rendered_improvement_db", "another separator, rendered songs, vocals", "beside.rendered.mean.vocals_improvement_db", ">=", None, "dB", 1),
        ("beside_real_worst_improvement_db", "another separator, worst of the real songs, vocals", "beside.real.worst_improvement_db", ">=", None, "dB", 1),
    ),
    *_figures(
        "voice",
        ("voice_auc_rendered", "same singer in another song against other singers, rendered, AUC", "auc_windows_across_songs", ">=", 0.98),
        ("voice_auc_real_halves", "two halves of a real song against other singers, AUC", "real_separated.auc_halves", ">=", 0.9),
    ),
    *_figures(
        "chain",
        ("chain_phone_error", "lyrics to waveform, phone error, as sing.py sings", "phone_error.chain", "<=", 0.2),
        ("chain_phone_error_one_try", "the same, one try", "phone_error.one_try", "<="),
        ("chain_phone_error_mismatched", "the same against lyrics of other songs", "phone_error.mismatched", ">=", 0.95),
        ("chain_phone_error_mismatched_truth", "faultless singing against lyrics of other songs", "phone_error.mismatched_truth", ">="),
        ("chain_judge_error", "phone error of the original vocals: the judge's own", "added.judge", "<="),
        ("chain_codec_adds", "phone error that the codec adds", "added.codec", "<="),
        ("chain_sm2a_adds", "that sm2a adds", "added.sm2a", "<="),
        ("chain_t2s_adds", "that t2s adds", "added.t2s", "<="),
        ("chain_choosing_adds", "that choosing among candidates adds", "added.choosing", "<="),
        ("chain_repair_adds", "that singing wrong words again adds", "added.repair", "<="),
        ("chain_phones_heard_per_written", "phones heard for one written", "phones_heard_per_written", ">="),
        ("notes_in_key", "notes in the song's key (chance .583)", "notes_in_key.chain", ">=", 0.85),
        ("notes_in_key_truth", "the same, true tokens through the codec", "notes_in_key.codec", ">="),
        ("asked_voice_auc", "asked voice against the others, AUC", "asked_voice_auc", ">=", 0.9),
        ("samples_with_faults", "samples that drop out, get stuck or stay mute", "soundness.faulty", "<=", 0, "", 0),
    ),
    *_figures(
        "sing",
        ("sing_real_time_factor", "sing.py, whole process, share of real time", "real_time_factor", "<=", 3.0, "", 2),
        ("sing_peak_memory_gb", "its peak memory", "peak_memory_gb", "<=", 3.0, "GB", 2),
    ),
)  # fmt: skip

BY_NAME = {figure.name: figure for figure in FIGURES}


class Measured(NamedTuple):
    """A value, None where it could not be measured, and its 95 % interval, None where none was reckoned."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def known(self) -> bool:
        return self.value is not None


def measured(figures: Mapping[str, Any], figure: Figure) -> Measured | None:
    """A figure of the "figures" of an evaluation; None where its section did not measure it."""
    at: Any = figures
    above: Any = None
    for key in figure.path:
        if not isinstance(at, Mapping) or key not in at:
            return None
        above, at = at, at[key]
    if isinstance(at, Mapping):
        return Measured(*(_number(at.get(key)) for key in ("value", "low", "high")))
    low, high = above.get("intervals", {}).get(figure.path[-1]) or (None, None)
    return Measured(_number(at), _number(low), _number(high))


def all_measured(figures: Mapping[str, Any]) -> dict[str, Measured]:
    """Name -> what was measured, in the order of `FIGURES`."""
    found = ((figure.name, measured(figures, figure)) for figure in FIGURES)
    return {name: value for name, value in found if value is not None}


def holds(figure: Figure, value: Measured) -> bool:
    """Whether the bar is met; a figure that could not be measured meets none."""
    return figure.asked is not None and bar(value.value, figure.better, figure.asked)["ok"]


def bar(value: float | None, better: str, asked: float) -> dict[str, Any]:
    """A value beside its bar, which is met on the side of `better`; one that could not be measured meets none."""
    if value is None or not math.isfinite(value):
        return {"value": None, "bar": f"{better} {asked:g}", "ok": False}
    return {"value": round(float(value), 4), "bar": f"{better} {asked:g}", "ok": bool(value >= asked if better == ">=" else value <= asked)}


def bars(figures: Mapping[str, Any], table: Sequence[Figure] = FIGURES) -> dict[str, dict[str, Any]]:
    """Every asked figure that was measured beside its bar: `{"value", "bar", "ok"}`, and its interval where there is one."""
    out: dict[str, dict[str, Any]] = {}
    for figure in table:
        found = measured(figures, figure)
        if figure.asked is None or found is None:
            continue
        out[figure.name] = bar(found.value, figure.better, figure.asked)
        if found.low is not None:
            out[figure.name] |= {"low": found.low, "high": found.high}
    return out


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
