"""`sing.py`: sing new words over a recording's instrumental.

    sing.py --reference song.mp3 --lyrics $'la la la la\\nla la la la'

Writes into --output-dir: mix.wav, vocals.wav, accompaniment.wav, lyrics.lrc (word times), picture.png, request.json (settings,
seed, versions, hashes of the models, device: enough to repeat the run), and candidates/ (the versions that were not chosen). The
first half of the lines governs the first half of the time, the rest the second half.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from autosing.cli.arguments import run_command, underscores_too
from autosing.errors import ConfigError


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="autosing-sing", description="Sing new words over a recording's instrumental.",
        epilog="Example: sing.py --reference song.mp3 --lyrics $'la la la la\\nla la la la'",
    )  # fmt: skip
    p.add_argument("reference_path", nargs="?", metavar="REFERENCE", help="the same as --reference")
    p.add_argument("--reference", help="recording (wav, flac, mp3, ogg, opus) or a folder of them")
    p.add_argument("--lyrics", default="", help="one line, or two: the first governs the first half, the second the last")
    p.add_argument("--t2s-model", "--tm2s-model", default="builtin", help="checkpoint or adapter: a folder, a hub id, or builtin")
    p.add_argument("--sm2a-model", default="builtin", help="the same")
    p.add_argument("--start-time", type=float, default=0.0, metavar="SECONDS", help="where in the reference to start")
    p.add_argument("--length", type=float, default=30.0, metavar="SECONDS", help="4 to 30")
    p.add_argument("--music-volume", type=float, default=0.8, help="factor on the instrumental in the mix")
    p.add_argument("--temp", type=float, default=0.7, help="sampling temperature of both models")
    p.add_argument("--batch-size", type=int, default=4, metavar="N", help="versions to sing; the best recognised one is kept")
    p.add_argument("--spkfile", action="append", default=[], metavar="FILE", help="sing like this recording's singer (repeatable)")
    p.add_argument("--spk-alpha", type=float, default=1.0, help="1 = the --spkfile voice, 0 = the reference's voice")
    p.add_argument("--semfile", metavar="FILE", help="take words and timing from the voice in this recording")
    p.add_argument("--gen-semantic", action="store_true", help="generate the semantic tokens (the default without --semfile)")
    p.add_argument("--tts", action="store_true", help="no instrumental")
    p.add_argument("--separator", default="builtin", metavar="NAME[:WEIGHTS]", help="builtin, demucs")
    p.add_argument("--aligner", default="builtin", metavar="NAME[:WEIGHTS]", help="builtin, ctc, whisperx")
    for part in ("codec", "semantic", "voice"):
        p.add_argument(f"--{part}", metavar="NAME:WEIGHTS", help="where the weights lie of the one that the models were trained on")
    p.add_argument("--output-dir", default="out", metavar="DIR")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="auto")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    options = parser().parse_args(underscores_too(parser(), argv))
    if options.reference and options.reference_path:
        raise ConfigError("the reference is given twice; give it once, as --reference FILE")
    from autosing.device import pick_device
    from autosing.singing.request import AUDIO_SUFFIXES, SingRequest

    given = options.reference or options.reference_path
    references: list[Path | None] = [Path(given)] if given else [None]
    if given and Path(given).is_dir():
        references = [*sorted(p for p in Path(given).iterdir() if p.suffix.lower() in AUDIO_SUFFIXES)]
        if not references:
            raise ConfigError(f"--reference: the folder '{given}' holds no audio file ({', '.join(AUDIO_SUFFIXES)})")
    semantic_file = Path(options.semfile) if options.semfile and not options.gen_semantic else None
    requests = [
        SingRequest(
            lyrics=options.lyrics,
            reference=reference,
            t2s_model=options.t2s_model,
            sm2a_model=options.sm2a_model,
            start_seconds=options.start_time,
            length_seconds=options.length,
            music_volume=options.music_volume,
            temperature=options.temp,
            candidates=options.batch_size,
            speaker_files=tuple(map(Path, options.spkfile)),
            speaker_alpha=options.spk_alpha,
            semantic_file=semantic_file,
            tts=options.tts,
            seed=options.seed,
        )
        for reference in references
    ]
    from autosing.singing.pipeline import Ears, Singer

    check_writable(Path(options.output_dir))
    ears = Ears(options.separator, options.aligner, options.codec, options.semantic, options.voice)
    singer = Singer(options.t2s_model, options.sm2a_model, pick_device(options.device), ears)
    for folder, request in zip(_folders(Path(options.output_dir), references), requests, strict=True):
        write(folder, singer, request)
    return 0


def check_writable(folder: Path) -> None:
    """
    Raises:
        ConfigError: `folder` is none, or cannot be made or written: better said before an hour of singing than after it.
    """
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not there.is_dir():
        raise ConfigError(f"--output-dir '{folder}': '{there}' is a file, not a folder; name another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"--output-dir '{folder}': '{there}' may not be written; name another one")


def _folders(output: Path, references: Sequence[Path | None]) -> list[Path]:
    """Where each reference's song goes: `output` itself if there is one alone, else a folder named like the file.

    The suffix is kept where two files differ in it alone (or, for disks that do not tell them apart, in capitals).
    """
    if len(references) == 1:
        return [output]
    named = [p for p in references if p is not None]
    unique = len({p.stem.casefold() for p in named}) == len(named)
    return [output / (p.stem if unique else p.name) for p in named]


def write(folder: Path, singer, request) -> None:
    """Sing `request` and write every file of the result into `folder`."""
    from autosing.singing.picture import draw
    from autosing.song import audio
    from autosing.song.lyrics import format_lrc, from_alignment
    from autosing.store import atomic_path
    from autosing.training.log import Progress

    print(f"singing over {request.reference or 'silence'} ...", file=sys.stderr, flush=True)
    bar, outcome = Progress(1000), "not sung"
    try:
        sung = singer.sing(request, lambda share, stage: bar.update(round(1000 * share), stage))
        outcome = "sung"
    finally:
        bar.line(outcome)
    files = {"mix.wav": sung.mix, "vocals.wav": sung.vocals, "accompaniment.wav": sung.accompaniment}
    files |= {f"candidates/{i:02d}.wav": mix for i, mix in enumerate(sung.others, start=2)}
    for name, wav in files.items():
        with atomic_path(folder / name) as path:
            path.write_bytes(audio.encode(wav, sung.sample_rate, "wav"))
    for path in (folder / "candidates").glob("*.wav"):  # those of an earlier run that sang more
        if path.stem.isdecimal() and f"candidates/{path.name}" not in files:
            path.unlink()
    with atomic_path(folder / "lyrics.lrc") as path:
        path.write_text(format_lrc(from_alignment(sung.alignment)), encoding="utf-8")
    with atomic_path(folder / "request.json") as path:
        path.write_text(json.dumps(sung.report, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    title = f"{request.reference.name if request.reference else 'no accompaniment'} - seed {request.seed}"
    draw(folder / "picture.png", sung.mix, sung.vocals, sung.sample_rate, sung.alignment, title)
    seconds = sum(sung.report["stage_seconds"].values())
    print(f"{folder}: mix.wav vocals.wav accompaniment.wav lyrics.lrc picture.png request.json "
          f"({sung.report['seconds']:.1f} s of song in {seconds:.1f} s)")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
