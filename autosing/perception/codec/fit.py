"""Fit the embedded codecs on rendered songs (and real music): codebooks by k-means, and for the voice two small networks (learn.py).

    python -m autosing.perception.codec.fit --songs songs/train songs/speech --out autosing/weights/codec
    python -m autosing.perception.codec.fit --what postfilter --songs songs/train --out autosing/weights/codec/postfilter
    python -m autosing.perception.codec.fit --what band --songs songs/train --music music --out autosing/weights/codec_band

A song table is `<songs>/<i>/songs.parquet` as `autosing.rendering` writes it. The voice books hear each song at another level, and part
of the songs the way a separator leaves them (leakage.py). Everything is drawn from (seed, song id): the same songs give the same books.
With `--like`, levels 0 and 1 are those of an earlier codec and the codes of levels 2 and 3 bear the numbers of its codes for the same sounds,
so that models can be trained on (`train.py --allow-changed`). The filter behind the vocoder (postfilter.py) is learnt last, on what a codec makes of clean
voices: codes stay what they are.
"""

import argparse
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from autosing.errors import AutoSingError, ConfigError, DataError
from autosing.models.io import load_model, save_model
from autosing.perception.codec.adversary import FilterPlan, Pair, learn_filter
from autosing.perception.codec.band import CLASSES, BandBooks, BandBooksConfig, BandEars, pooled
from autosing.perception.codec.builtin import BuiltinCodec, VoiceBooks, VoiceBooksConfig, listen, load_books
from autosing.perception.codec.leakage import through_mask
from autosing.perception.codec.learn import Material, Plan, learn
from autosing.perception.codec.postfilter import PostFilter, PostFilterConfig
from autosing.perception.codec.quantise import kmeans, named_alike, nearest
from autosing.perception.codec.vocoder import Frames, Vocoder
from autosing.song import audio
from autosing.store import TableReader, song_places
from autosing.tokens.specs import Seconds

CROP_SECONDS: Seconds = 24.0
SHARE_SEPARATED = 0.4  # songs heard through an imperfect separator
SHARE_ALTERED = 0.5  # songs sung by a slightly other throat; songs heard in another tone


class Song(NamedTuple):
    """Mono float32 at 24 kHz; `band` is None for unaccompanied voices."""

    id: str
    vocals: np.ndarray
    band: np.ndarray | None


def songs(folders: Sequence[Path], seconds: Seconds, seed: int) -> Iterator[Song]:
    """Crops of songs from anywhere in the tables, in an order drawn from `seed`, until `seconds` are reached or every song came once.

    Raises:
        DataError: no table, or a damaged one.
    """
    places = song_places(*folders)
    total = 0.0
    for index in np.random.default_rng(seed).permutation(len(places)):
        path, position = places[index]
        with TableReader(path) as table:
            row = table.row(position, ["id", "vocals", "accompaniment"])
        if row["vocals"] is None:
            continue
        rng = np.random.default_rng([seed, zlib.crc32(row["id"].encode())])
        with audio.opened(row["vocals"]) as source:
            length = min(source.frames, int(CROP_SECONDS * source.samplerate))
            first = int(rng.integers(0, source.frames - length + 1))
            source.seek(first)
            vocals = source.read(length, dtype="float32", always_2d=True).mean(1)
            total += length / source.samplerate
        band = None
        if row["accompaniment"] is not None:
            with audio.opened(row["accompaniment"]) as source:
                source.seek(min(first, source.frames))
                part = source.read(length, dtype="float32", always_2d=True).mean(1)
                band = np.pad(part, (0, length - len(part)))
        yield Song(row["id"], vocals, band)
        if total >= seconds:
            return


def heard(song: Song, seed: int) -> Tensor:
    """(n,) vocals of a song at a level of its own, part of them as separated."""
    rng = np.random.default_rng([seed, 1, zlib.crc32(song.id.encode())])
    vocals = torch.from_numpy(song.vocals)
    if song.band is not None and rng.random() < SHARE_SEPARATED:
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        gain = 10 ** (rng.uniform(-6, 3) / 20)
        vocals = through_mask(vocals[None], torch.from_numpy(song.band)[None] * gain, generator)[0]
    if rng.random() < SHARE_ALTERED:  # a shorter or longer throat
        speed = np.exp(rng.uniform(-0.12, 0.12))
        places = np.arange(int(len(vocals) / speed)) * speed
        vocals = torch.from_numpy(np.interp(places, np.arange(len(vocals)), vocals.numpy()).astype(np.float32))
    return vocals * 10 ** (rng.uniform(-8, 5) / 20)


def other_tone(cepstra: Tensor, song_id: str, seed: int) -> Tensor:
    """Part of the songs through a smooth equaliser: a constant added to the first cepstra but loudness."""
    rng = np.random.default_rng([seed, 2, zlib.crc32(song_id.encode())])
    if rng.random() >= SHARE_ALTERED:
        return cepstra
    spread = np.array([0.0, 4.0, 3.0, 2.5, 2.0, 1.5, 1.0, 1.0])
    offset = torch.zeros(cepstra.shape[-1])
    offset[: len(spread)] = torch.from_numpy(rng.standard_normal(len(spread)) * spread).float()
    return cepstra + offset


def collect(
    folders: Sequence[Path], seconds: Seconds, seed: int, pitch: str | Path, recogniser: str | Path, vocoder: Vocoder
) -> tuple[Frames, Tensor]:
    """Features of all songs one behind the other, each a whole number of grains: `Frames` with B = 1; and (T, C) phones a frame, as a
    recogniser hears them."""
    net, _ = load_model(pitch, "pitch")
    ears, _ = load_model(recogniser, "recogniser")
    hop, grain = vocoder.config.hop, 8
    parts, phones = [], []
    for song in songs(folders, seconds, seed):
        wav = heard(song, seed)
        frames = len(wav) // hop // grain * grain
        if frames * hop >= ears.hop:
            part = listen(wav[: frames * hop], frames, net, vocoder)
            parts.append(replace(part, cepstra=other_tone(part.cepstra, song.id, seed)))
            chances = ears(wav[None]).frames[0].softmax(-1)
            middles = (torch.arange(frames) + 0.5) * hop / ears.hop - 0.5
            phones.append(chances[middles.round().long().clamp(0, len(chances) - 1)])
    if not parts:
        raise DataError("no song is long enough to fit a codec on")
    return Frames.join(parts, 1), torch.cat(phones)


def perceptual_scale(cepstra: int) -> Tensor:
    """(M,) weight of each cepstrum: loudness less, because level 0 has it; fine detail less, because phones differ little in it."""
    k = torch.arange(cepstra, dtype=torch.float32)
    scale = 1.0 - 0.5 * ((k - 12) / (cepstra - 13)).clamp(0, 1)
    scale[0] = 0.5
    return scale


def fit_voice(frames: Frames, config: VoiceBooksConfig, seed: int, iterations: int = 16) -> VoiceBooks:
    """Means, scales and the books of levels 0 and 1; the rest is learnt (learn.py)."""
    books = VoiceBooks(config)
    cepstra, voiced, noise = frames.cepstra[0], frames.voiced[0], frames.aperiodicity_db[0]
    k = config.num_codes
    activity = books.activity(cepstra)
    books.mean.copy_(((cepstra * activity[:, None]).sum(0) / activity.sum()).half())
    books.scale.copy_(perceptual_scale(config.vocoder.cepstra).half())
    books.aperiodicity_mean.copy_(noise[voiced].mean(0).half())
    context = books.context(books.state(cepstra), activity)
    book = kmeans(context, k, activity.reshape(-1, 8).mean(1), iterations, seed)
    books.book0.copy_(book[book[:, :2].mean(1).argsort()].half())  # numbered by loudness
    books.book1.copy_(contour_book(books.contour(frames.f0_hz[0]), voiced, k, iterations, seed))
    return books


def require_same_codes(like: VoiceBooks, config: VoiceBooksConfig) -> None:
    """Raises ConfigError unless `like` has the features and the numbers of codes of `config`."""
    theirs, ours = ((c.vocoder, c.num_codes, c.voiced_codes) for c in (like.config, config))
    if theirs != ours:
        raise ConfigError("--like needs a codec with the same features and numbers of codes; leave it out to fit all levels")


def levels_of(like: VoiceBooks, config: VoiceBooksConfig) -> VoiceBooks:
    """`fit_voice`, but means, scales and levels 0 and 1 are those of an earlier codec (see `require_same_codes`)."""
    books = VoiceBooks(config)
    for name in ("mean", "scale", "aperiodicity_mean", "book0", "book1"):
        getattr(books, name).copy_(getattr(like, name))
    return books


def name_like(books: VoiceBooks, like: VoiceBooks, frames: Frames) -> None:
    """Renumber the codes of levels 2 and 3 by what `like` calls the same frames; voiced codes stay voiced."""
    codes, names = books.encode(frames), like.encode(frames)
    voiced, cut = frames.voiced[0], books.config.voiced_codes
    books.book2.copy_(books.book2[named_alike(codes[2], names[2], books.config.num_codes)])
    sung = named_alike(codes[3][voiced], names[3][voiced], cut)
    silent = cut + named_alike(codes[3][~voiced] - cut, names[3][~voiced] - cut, books.config.num_codes - cut)
    books.book3.copy_(books.book3[torch.cat([sung, silent])])


def contour_book(contours: Tensor, voiced: Tensor, count: int, iterations: int, seed: int) -> Tensor:
    """(T/4, 4) octaves -> (count, 4): code 0 unused, the rest by rising mean; contours are transposed to cover all voices alike."""
    sung = contours[voiced.reshape(-1, 4).sum(1) >= 2]
    generator = torch.Generator().manual_seed(seed + 9)
    copies = [sung + shift for shift in (torch.rand(4, len(sung), 1, generator=generator) * 1.6 - 0.8)]
    everything = torch.cat([sung, *copies])
    middle = everything.mean(1)
    everything = everything[(middle > -1.7) & (middle < 2.2)]  # 68 to 1010 Hz
    book = kmeans(everything, count - 1, None, iterations + 8, seed)
    book = book[book.mean(1).argsort()].half().float()
    return torch.cat([torch.zeros(1, 4), book])


def voice_errors(books: VoiceBooks, frames: Frames) -> dict[str, Any]:
    """How far coded features are from the features, over active frames: spectrum and loudness in dB, F0 in cents, noise bands in dB."""
    coded = books.decode(books.encode(frames))
    active = books.activity(frames.cepstra[0]) > 0.5
    difference = (coded.cepstra[0] - frames.cepstra[0])[active] * (10 / 2.302585)
    points = books.config.vocoder.mel_points
    voiced = active & frames.voiced[0]
    cents = 1200 * torch.log2(coded.f0_hz[0] / frames.f0_hz[0])[voiced].abs()
    return {
        "spectrum_db": round(float((difference.square().sum(1) / points).sqrt().mean()), 3),
        "loudness_db": round(float(difference[:, 0].abs().mean() / points**0.5), 3),
        "f0_cents_median": round(float(cents.median()), 2),
        "f0_off_by_50_cents": round(float((cents > 50).float().mean()), 4),
        "aperiodicity_db": round(float((coded.aperiodicity_db - frames.aperiodicity_db)[0][voiced].abs().mean()), 2),
        "codes_used": [len(set(level.tolist())) for level in books.encode(frames)],
    }


VOICE_CARD = """# codec: the embedded codec of the voice

Codebooks and networks of `autosing.perception.codec.builtin` (24 kHz, hop 288, strides 8/4/2/1, 1024 codes a level, 1.56 kbit/s). What
each level says is in that module's first lines. Fitted by one command:

    python -m autosing.perception.codec.fit --songs <rendered songs> ... --minutes {minutes:.0f} --steps {steps}{origin} --out autosing/weights/codec

on vocals, {share:.0%} of the accompanied ones as an imperfect separator leaves them. Errors of the coded features on a
part of the same songs: {errors}.
"""


# -- the filter behind the vocoder ---------------------------------------------------------------------------------------------------


FILTER_CARD = """# codec/postfilter: what the codec's vocoder lacks

The network of `autosing.perception.codec.postfilter`, learnt by one command:

    python -m autosing.perception.codec.fit --what postfilter --songs <rendered songs> ... --minutes {minutes:.0f} --steps {steps}{origin} --out autosing/weights/codec/postfilter

Distances of held-back songs from the originals, without and with it: {distances}.
"""


def coded_pairs(folders: Sequence[Path], seconds: Seconds, seed: int, codec: BuiltinCodec, shortest: int) -> list[Pair]:
    """Clean vocals and what the codec's vocoder makes of their codes; songs of at least `shortest` frames.

    Raises:
        DataError: no table, or no song that long.
    """
    pairs = []
    for song in songs(folders, seconds, seed):
        frames = len(song.vocals) // codec.spec.hop // codec.spec.grain * codec.spec.grain
        if frames >= shortest:
            wav = torch.from_numpy(song.vocals)[: frames * codec.spec.hop]
            coded = codec.books.decode(codec.books.encode(codec.features(wav, frames)))
            pairs.append(Pair(wav, codec.synthesise(coded)[0], coded))
    if not pairs:
        raise DataError("no song is long enough to learn a filter on")
    return pairs


def _fit_postfilter(args: argparse.Namespace) -> None:
    from fastprogress.fastprogress import progress_bar

    codec = BuiltinCodec(weights=args.codec, pitch=args.pitch)
    given = {name: value for name in ("steps", "learning_rate") if (value := getattr(args, name))}
    plan = replace(FilterPlan(), seed=args.seed, **given)
    begun = load_books(PostFilter, args.load_from, PostFilter.kind) if args.load_from else None
    recogniser, _ = load_model(args.recogniser, "recogniser")
    print(f"listening to {args.minutes:g} minutes of songs", file=sys.stderr, flush=True)
    pairs = coded_pairs(args.songs, args.minutes * 60, args.seed, codec, plan.crop)
    net = begun.requires_grad_(True) if begun else PostFilter(PostFilterConfig(codec.books.config.vocoder))
    with torch.enable_grad():
        distances = learn_filter(net, pairs, recogniser, plan, progress_bar)
    minutes = sum(len(pair.original) for pair in pairs) / codec.spec.sample_rate / 60
    meta: dict[str, Any] = {"minutes": round(minutes, 1), "plan": asdict(plan), "distances": distances}
    origin = f" --load-from {args.load_from}" if args.load_from else ""
    save_model(net, args.out, meta, FILTER_CARD.format(minutes=minutes, steps=plan.steps, origin=origin, distances=distances), torch.int8)
    print(f"{args.out}: {distances}")


# -- accompaniments ------------------------------------------------------------------------------------------------------------------


def music(folder: Path, seconds: Seconds, sample_rate: int, seed: int) -> Iterator[np.ndarray]:
    """Crops of the recordings under `folder` (any depth; what libsndfile reads), mono float32 at `sample_rate`, about `seconds` in all.

    Raises:
        DataError: no recording.
        AudioError: code `not_audio`: one that cannot be decoded; names it.
    """
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".opus", ".ogg", ".flac", ".wav", ".mp3"))
    if not paths:
        raise DataError(f"no recordings under '{folder}'; leave --music out to fit on rendered bands alone")
    for number, path in enumerate(paths):
        with audio.opened(path) as source:
            length = min(source.frames, int(seconds / len(paths) * source.samplerate))
            rng = np.random.default_rng([seed, number])
            source.seek(int(rng.integers(0, source.frames - length + 1)))
            wave = source.read(length, dtype="float32", always_2d=True).mean(1)
            rate = source.samplerate
        yield audio.resample(torch.from_numpy(wave), rate, sample_rate).numpy()


def fit_band(harmony: Tensor, mel: Tensor, config: BandBooksConfig, seed: int, iterations: int = 16) -> BandBooks:
    """(T/8, 24), (T, P) of many accompaniments -> codebooks. Harmonies are transposed to all twelve keys."""
    books = BandBooks(config)
    k = config.num_codes
    toned = harmony[harmony.abs().sum(1) > 0]
    keys = torch.stack([toned.reshape(-1, 2, CLASSES).roll(key, 2).flatten(1) for key in range(CLASSES)], 1).flatten(0, 1)
    books.book0[1:].copy_(kmeans(keys, k - 1, None, iterations, seed).half())
    book = kmeans(pooled(mel, 4), k, None, iterations, seed + 1)
    books.book1.copy_(book[book.mean(1).argsort()].half())
    rest = mel - books.book1[nearest(pooled(mel, 4), books.book1)].repeat_interleave(4, 0)
    books.book2.copy_(kmeans(pooled(rest, 2), k, None, iterations, seed + 2).half())
    rest = rest - books.book2[nearest(pooled(rest, 2), books.book2)].repeat_interleave(2, 0)
    books.book3.copy_(kmeans(torch.cat([rest, books.onset(mel)], 1), k, None, iterations, seed + 3).half())
    return books


BAND_CARD = """# codec_band: the embedded codec of accompaniments

Codebooks of `autosing.perception.codec.band` (24 kHz, hop 288, strides 8/4/2/1, 1024 codes a level): harmony, timbre, finer spectrum,
onsets. Made to be a condition. Fitted without gradients:

    python -m autosing.perception.codec.fit --what band --songs <rendered songs> --music <instrumental recordings> --out autosing/weights/codec_band

on {minutes:.0f} minutes of rendered bands and of free real music (CC0, CC BY). Mean error of the coded log-mel on them: {error:.2f} dB.
"""


def _fit_band(args: argparse.Namespace) -> None:
    folders, recordings, out, seconds, seed = args.songs, args.music, args.out, args.minutes * 60, args.seed
    config = BandBooksConfig()
    ears = BandEars(config)
    bands = (song.band for song in songs(folders, seconds, seed) if song.band is not None)
    waves = list(bands) + (list(music(recordings, seconds, config.sample_rate, seed)) if recordings else [])
    harmonies, mels = [], []
    for number, wave in enumerate(waves):
        gain = 10 ** (np.random.default_rng([seed, 3, number]).uniform(-10, 4) / 20)
        frames = len(wave) // config.hop // 8 * 8
        if frames:
            harmony, mel = ears(torch.from_numpy(wave[: frames * config.hop]) * gain, frames)
            harmonies.append(harmony)
            mels.append(mel)
    books = fit_band(torch.cat(harmonies), torch.cat(mels), config, seed)
    mel = torch.cat(mels)[:40_000]
    codes = books.encode(torch.cat(harmonies)[:5_000], mel)
    error = float((books.decode(codes) - mel).abs().mean()) * (20 / 2.302585)
    minutes = sum(map(len, waves)) / config.sample_rate / 60
    meta: dict[str, Any] = {"minutes": round(minutes, 1), "seed": seed, "mel_error_db": round(error, 3)}
    save_model(books, out, meta, BAND_CARD.format(minutes=minutes, error=error), torch.float16)
    print(f"{out}: {meta}, codes used {[len(set(level.tolist())) for level in codes]}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=["voice", "postfilter", "band"], default="voice")
    parser.add_argument("--songs", nargs="+", type=Path, required=True, help="folders of <i>/songs.parquet")
    parser.add_argument("--music", type=Path, help="folder of instrumental recordings, for --what band")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0, help="of audio to listen to")
    parser.add_argument("--pitch", default="builtin", help="checkpoint of the pitch net")
    parser.add_argument("--recogniser", default="builtin", help="checkpoint of the recogniser that says which phones are sung")
    parser.add_argument("--codec", default="builtin", metavar="FOLDER", help="whose voices a postfilter is learnt on")
    parser.add_argument("--steps", type=int, help="steps of learning levels 2 and 3 (about 1.7 a second on one core), or a postfilter (as many)")
    parser.add_argument("--learning-rate", type=float, help=f"the highest in learning them (default {Plan.learning_rate:g})")
    parser.add_argument("--like", metavar="FOLDER", help="an earlier codec, or 'builtin': levels 0 and 1 are its, codes of levels 2 and 3 keep its numbers")
    parser.add_argument("--load-from", metavar="FOLDER", help="learn on from this codec ('builtin' is the shipped one) or postfilter")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        with torch.no_grad():
            {"postfilter": _fit_postfilter, "band": _fit_band, "voice": _fit_voice}[args.what](args)
    except AutoSingError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _fit_voice(args: argparse.Namespace) -> None:
    from fastprogress.fastprogress import progress_bar

    begun, like = (load_books(VoiceBooks, folder, "codec") if folder else None for folder in (args.load_from, args.like))
    config = begun.config if begun else VoiceBooksConfig()
    if like:
        require_same_codes(like, config)
    print(f"listening to {args.minutes:g} minutes of songs", file=sys.stderr, flush=True)
    frames, phones = collect(args.songs, args.minutes * 60, args.seed, args.pitch, args.recogniser, Vocoder(config.vocoder))
    if begun:
        books = begun.requires_grad_(True)
    else:
        books = levels_of(like, config) if like else fit_voice(frames, config, args.seed)
    given = {name: value for name in ("steps", "learning_rate") if (value := getattr(args, name))}
    material, plan = Material(books, frames, phones), replace(Plan(), seed=args.seed, **given)
    with torch.enable_grad():
        distances = learn(books, material, plan, progress_bar, fresh=begun is None)
    books.eval()
    if like:
        name_like(books, like, frames)
    errors = voice_errors(books, frames.cut(slice(40_000)))
    minutes = frames.voiced.shape[1] * config.vocoder.hop / config.vocoder.sample_rate / 60
    meta: dict[str, Any] = {"minutes": round(minutes, 1), "plan": asdict(plan), "held_back": distances, "errors": errors}
    origin = "".join(f" --{flag} {value}" for flag, value in (("like", args.like), ("load-from", args.load_from)) if value)
    card = VOICE_CARD.format(minutes=minutes, steps=plan.steps, origin=origin, share=SHARE_SEPARATED, errors=errors)
    save_model(books, args.out, meta, card, torch.int8)
    print(f"{args.out}: {errors}")


if __name__ == "__main__":
    main()
