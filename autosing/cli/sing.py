"""`sing.py`: sing new words over a recording's instrumental.

    sing.py --reference song.mp3 --lyrics $'la la la la\\nla la la la'
    sing.py --reference song.mp3 --lyrics words.lrc --candidates 2
    sing.py --replace 12.5-18.0 --lyrics 'other words' --output-dir out

Writes into --output-dir: mix.wav, vocals.wav, accompaniment.wav, lyrics.lrc (word times and how sure each word is), picture.png,
request.json (settings, seed, versions, hashes of the models, device, scores: enough to repeat the run), song.safetensors (the tokens, from which a
passage can be sung again), and candidates/ (the versions that were not chosen). All of them appear together, or none does. Of two plain lines
the first governs the first half of the time and the other the rest; more lines are laid over what is sung in the reference.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autosing.cli.arguments import run_command, underscores_too
from autosing.cli.sing_files import (
    ANY_VOICE,
    SONG_FILES,
    STANDARD_OUTPUT,
    check_outputs,
    check_stream,
    check_writable,
    folders_for,
    inputs_of,
    read_lyrics,
    recordings,
    stream_to,
)
from autosing.errors import AudioError, ConfigError, DataError

if TYPE_CHECKING:
    from autosing.singing.output import WavStream
    from autosing.singing.request import Ears, SingRequest, Sung

OF_A_NEW_SONG = (
    "reference", "reference_path", "t2s_model", "sm2a_model", "start_time", "length", "music_volume", "spkfile", "spk_alpha", "semfile", "gen_semantic",
    "tts", "stream", "language",
)  # fmt: skip
"""Options that --replace has no use for: the song has all of them."""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="autosing-sing", description="Sing new words over a recording's instrumental.",
        epilog="Example: sing.py --reference song.mp3 --lyrics $'la la la la\\nla la la la'",
    )  # fmt: skip
    p.add_argument("reference_path", nargs="?", metavar="REFERENCE", help="the same as --reference")
    p.add_argument("--reference", help="recording (wav, flac, mp3, ogg, opus) or a folder of them")
    p.add_argument("--lyrics", default="", metavar="TEXT|FILE", help="the words: any number of lines, LRC with stamps, or a .txt or .lrc file; "
                   "of two plain lines each governs a half")  # fmt: skip
    p.add_argument("--t2s-model", "--tm2s-model", default="builtin", help="checkpoint or adapter: a folder, a hub id, or builtin")
    p.add_argument("--sm2a-model", default="builtin", help="the same, of sm2a_parallel, which sings many tokens at a time (builtin), or of sm2a (builtin_sm2a)")
    p.add_argument("--start-time", type=float, default=0.0, metavar="SECONDS", help="where in the reference to start")
    p.add_argument("--length", type=float, metavar="SECONDS", help="from 4; 30 for one or two plain lines, else what the lyrics or --semfile take")
    p.add_argument("--music-volume", type=float, default=0.8, help="factor on the instrumental in the mix")
    p.add_argument("--temp", type=float, default=0.7, help="sampling temperature of both models")
    p.add_argument("--steps", type=int, metavar="N", help="passes of an --sm2a-model of sm2a_parallel (16): fewer are faster")
    p.add_argument("--candidates", "--batch-size", dest="batch_size", type=int, default=4, metavar="N", help="versions to sing; the one with the "
                   "fewest wrong phones is kept")  # fmt: skip
    p.add_argument("--repair", type=int, nargs="?", const=4, metavar="N", help="rounds in which the wrong words of that one are "
                   "sung again (2, or none by an --sm2a-model that sings step by step; 4 where no number is given)")  # fmt: skip
    p.add_argument("--spkfile", action="append", default=[], metavar="FILE", help="sing like this recording's singer (repeatable: the voice between "
                   "them), or 'any' voice where nobody sings in the reference")  # fmt: skip
    p.add_argument("--spk-alpha", type=float, default=1.0, help="1 = the --spkfile voice, 0 = the reference's voice")
    p.add_argument("--semfile", metavar="FILE", help="take words and timing from the voice in this recording")
    p.add_argument("--gen-semantic", action="store_true", help="generate the semantic tokens (the default without --semfile)")
    p.add_argument("--tts", action="store_true", help="no instrumental")
    p.add_argument("--replace", metavar="FROM-TO", help="sing the song in --output-dir again from FROM to TO seconds, to --lyrics, and leave the rest")
    p.add_argument("--stream", metavar="FILE", help="also write the mix here as it is sung, from the first seconds on; - = standard output")
    p.add_argument("--strict", action="store_true", help="refuse lyrics of which something cannot be sung")
    p.add_argument("--no-cache", action="store_true", help="do not keep what is heard in recordings for the next time (AUTOSING_CACHE: where)")
    p.add_argument("--separator", metavar="NAME[:WEIGHTS]", help="builtin, demucs (default: builtin that does not get used to the song first, which is quicker)")
    p.add_argument("--aligner", default="builtin", metavar="NAME[:WEIGHTS]", help="builtin, ctc, whisperx")
    for part in ("codec", "semantic", "voice"):
        p.add_argument(f"--{part}", metavar="NAME:WEIGHTS", help="where the weights lie of the one that the models were trained on")
    p.add_argument("--language", metavar="NAME", help="of those that the t2s model was trained with, the one to sing in (its first)")
    p.add_argument("--output-dir", default="out", metavar="DIR")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="auto")
    p.add_argument("--int8", action="store_true", help="sing faster on an x86 processor, a little less exactly: the decoders' matrices in int8")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    options = parser().parse_args(underscores_too(parser(), argv))
    if options.reference and options.reference_path:
        raise ConfigError("the reference is given twice; give it once, as --reference FILE")
    from autosing.singing.cache import default_folder
    from autosing.singing.request import Ears

    output, lyrics = Path(options.output_dir), read_lyrics(options.lyrics)
    cache = None if options.no_cache else default_folder()
    ears = Ears(options.separator or Ears().separator, options.aligner, options.codec, options.semantic, options.voice)
    if options.replace is not None:
        check_replace(argv)
        return _replace(options, output, lyrics, ears, cache)
    return _sing(options, output, lyrics, ears, cache)


def _sing(options: argparse.Namespace, output: Path, lyrics: str, ears: "Ears", cache: Path | None) -> int:
    """Sing over the reference, or over each of a folder of them."""
    from autosing.device import pick_device

    given = options.reference or options.reference_path
    is_folder = bool(given) and os.path.isdir(given)
    references: list[Path | None] = [*recordings(Path(given))] if is_folder else [Path(given) if given else None]
    folders = folders_for(output, references)
    _check_places(options, folders, references)
    if options.semfile and options.gen_semantic:
        raise ConfigError("--semfile takes the words from a recording, --gen-semantic from --lyrics; give one of the two")
    requests = [_request(options, lyrics, reference) for reference in references]
    from autosing.singing.pipeline import Singer

    check_writable(output)
    singer = Singer(options.t2s_model, options.sm2a_model, pick_device(options.device), ears, cache, options.int8, options.language)
    left_out: list[str] = []
    for folder, request in zip(folders, requests, strict=True):
        try:
            with stream_to(options.stream) as listening:
                write(folder, singer, request, listening)
        except (AudioError, DataError) as error:
            if not is_folder or request.reference is None:
                raise
            print(f"error: {error}", file=sys.stderr)
            left_out.append(request.reference.name)
    if left_out:
        print(f"{len(left_out)} of {len(requests)} recordings could not be sung over: {', '.join(left_out)}", file=sys.stderr)
    return 1 if left_out else 0


def _check_places(options: argparse.Namespace, folders: Sequence[Path], references: Sequence[Path | None]) -> None:
    """
    Raises:
        ConfigError: what is to be read would be written over, or --stream cannot be written.
    """
    if options.stream and len(references) > 1:
        raise ConfigError("--stream is for one reference, not for a folder of them")
    inputs = inputs_of(options, references)
    check_outputs(folders, inputs)
    if options.stream == STANDARD_OUTPUT and sys.stdout is None:
        raise ConfigError("--stream -: standard output is closed; pipe it into a player, or give a file")
    if options.stream and options.stream != STANDARD_OUTPUT:
        check_outputs(folders, [("--stream", Path(options.stream))])
        check_stream(options.stream, inputs)


def _request(options: argparse.Namespace, lyrics: str, reference: Path | None) -> "SingRequest":
    from autosing.singing.request import SingRequest

    return SingRequest(
        lyrics=lyrics,
        reference=reference,
        t2s_model=options.t2s_model,
        sm2a_model=options.sm2a_model,
        start_seconds=options.start_time,
        length_seconds=options.length,
        music_volume=options.music_volume,
        temperature=options.temp,
        steps=options.steps,
        candidates=options.batch_size,
        repair=options.repair,
        speaker_files=tuple(Path(file) for file in options.spkfile if file != ANY_VOICE),
        speaker_alpha=options.spk_alpha,
        semantic_file=Path(options.semfile) if options.semfile else None,
        tts=options.tts,
        seed=options.seed,
        any_voice=ANY_VOICE in options.spkfile,
        strict=options.strict,
        stream=bool(options.stream),
    )


def check_replace(argv: Sequence[str]) -> None:
    """
    Raises:
        ConfigError: an option of `OF_A_NEW_SONG` is given.
    """
    bare = parser()
    for action in bare._actions:
        action.default = argparse.SUPPRESS
    given = vars(bare.parse_args(underscores_too(bare, argv)))
    for option in OF_A_NEW_SONG:
        if option in given:
            flag = "--reference" if option == "reference_path" else f"--{option.replace('_', '-')}"
            raise ConfigError(f"--replace changes the song in --output-dir as it was sung, over its own reference; leave {flag} out")


def _replace(options: argparse.Namespace, folder: Path, lyrics: str, ears: "Ears", cache: Path | None) -> int:
    """Sing a passage of the song in `folder` again."""
    from autosing.device import pick_device
    from autosing.singing.output import readable
    from autosing.singing.passage import Earlier, replace_passage
    from autosing.singing.pipeline import Singer
    from autosing.singing.request import check_limits

    check_limits({
        "--temp": options.temp, "--candidates": options.batch_size, "--steps": options.steps, "--repair": options.repair, "--seed": options.seed
    })  # fmt: skip
    check_writable(folder)
    earlier = Earlier.read(folder)
    begin, end = _passage(options.replace)
    earlier.check(begin, end)
    singer = Singer(*earlier.models, pick_device(options.device), ears, cache, options.int8, earlier.report.get("language"))
    changed = replace_passage(
        singer, earlier, begin, end, lyrics, candidates=options.batch_size, temperature=options.temp, seed=options.seed,
        strict=options.strict, repair=options.repair, passes=options.steps,
    )  # fmt: skip
    _write_song(folder, changed, f"{folder.name} - {begin:g} to {end:g} s sung again, seed {options.seed}")
    _warn(changed.report)
    with contextlib.suppress(BrokenPipeError):  # nobody wants to know
        print(f"{readable(str(folder))}: sung again from {begin:g} to {end:g} s")
    return 0


def _passage(text: str) -> tuple[float, float]:
    """
    Raises:
        ConfigError: not FROM-TO.
    """
    begin, _, end = text.partition("-")
    try:
        return float(begin), float(end)
    except ValueError:
        raise ConfigError(f"--replace must be FROM-TO in seconds, for example 12.5-18.0, found '{text}'") from None


def write(folder: Path, singer, request, stream: "WavStream | None" = None) -> None:
    """Sing `request` and write every file of the result into `folder`."""
    from autosing.singing.output import readable
    from autosing.training.log import Progress

    print(f"singing over {request.reference or 'silence'} ...", file=sys.stderr, flush=True)
    bar, outcome = Progress(1000), "not sung"
    try:
        sung = singer.sing(request, lambda share, stage: bar.update(round(1000 * share), stage), None if stream is None else stream.write)
        outcome = "sung"
    finally:
        bar.line(outcome)
    _warn(sung.report)
    title = f"{request.reference.name if request.reference else 'no accompaniment'} - seed {request.seed}"
    _write_song(folder, sung, title)
    seconds = sum(sung.report["stage_seconds"].values())
    with contextlib.suppress(BrokenPipeError):
        print(f"{readable(str(folder))}: {' '.join(SONG_FILES)} ({sung.report['seconds']:.1f} s of song in {seconds:.1f} s)",
              file=sys.stderr if stream is not None else sys.stdout)  # fmt: skip


def _warn(report: dict) -> None:
    for note in report.get("notes", ()):
        print(f"note: {note}", file=sys.stderr)


def _write_song(folder: Path, sung: "Sung", title: str) -> None:
    """Write every file of a song, all or none."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from autosing.singing.output import CANDIDATES, readable, together
    from autosing.singing.picture import draw
    from autosing.singing.score import with_scores
    from autosing.song import audio
    from autosing.song.lyrics import format_lrc, from_alignment
    from autosing.store import atomic_path

    with together(folder) as draft:
        files = {"mix.wav": sung.mix, "vocals.wav": sung.vocals, "accompaniment.wav": sung.accompaniment}
        files |= {f"{CANDIDATES}/{i:02d}.wav": mix for i, mix in enumerate(sung.others, start=2)}
        for name, wav in files.items():
            (draft / name).parent.mkdir(exist_ok=True)
            (draft / name).write_bytes(audio.encode(wav, sung.sample_rate, "wav"))
        lyrics = with_scores(from_alignment(sung.alignment), sung.alignment)
        (draft / "lyrics.lrc").write_text(format_lrc(lyrics), encoding="utf-8")
        report = json.dumps(sung.report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        (draft / "request.json").write_text(report, encoding="utf-8")
        try:
            with atomic_path(draft / "song.safetensors") as path:
                save_file({name: tensor.contiguous() for name, tensor in sung.tokens.items()}, path)
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(f"song.safetensors: {error}") from error
        draw(draft / "picture.png", sung.mix, sung.vocals, sung.sample_rate, sung.alignment, readable(title))


if __name__ == "__main__":
    sys.exit(main())
