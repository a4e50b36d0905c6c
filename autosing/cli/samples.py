"""`make samples`: what the embedded default sounds like, on one page, `samples/index.html`.

Twelve lines of our own sung over demo songs by the code of sing.py, each with another voice or seed, and four songs processed (separated and
aligned) by autosing-process: real ones where a folder of them is at hand, else demo songs, and the page says which. Under every player
stand the words at their times and the spectrogram; above them the figures of the shipped weights. What is done is not done again; a line whose
words, voice, seed, songs or weights changed is sung anew. Nothing here is chosen by ear: the page shows what came out.
"""

import argparse
import hashlib
import html
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import autosing
from autosing.cli.arguments import run_command
from autosing.cli.demo import ROOT, StageFailed
from autosing.errors import ConfigError
from autosing.evaluation.card import SECTION_TITLES, shown
from autosing.evaluation.compare import SHIPPED, read_result
from autosing.evaluation.figures import BY_NAME, FIGURES, Measured, holds
from autosing.song.alignment import Alignment, Word
from autosing.song.audio import Audio, decode, resample
from autosing.store import Dataset, TableReader, atomic_path, sha256_of
from autosing.tokens.specs import Seconds
from processing.lines import Line, clip_of, peaks_of
from processing.page_parts import document, line_article

DEMO = ROOT / "demo" / "songs"
SHARED = ROOT.parent / "shared" / "data"
LINE_SECONDS: Seconds = 8.0
EXCERPT_SECONDS: Seconds = 15.0
DONE = ".done.json"
HEADLINES = {
    "chain_phone_error": "phones wrong in what is sung", "notes_in_key": "notes in the song's key", "asked_voice_auc": "like the asked voice, not another",
    "real_pco_line_starts": "words of real songs within 0.3 s", "singing_activity_f1_real": "where real songs are sung, F1",
    "separation_real_worst_improvement_db": "worst gain of a real voice by separating",
}  # fmt: skip


@dataclass(frozen=True)
class SungLine:
    """A line to sing.

    Attributes:
        song: a demo song, whose accompaniment is sung over from `start` on.
        voice: another demo song whose singer is asked for; "" = the singer of `song`.
    """

    song: str
    start: Seconds
    voice: str
    seed: int
    words: str

    @property
    def title(self) -> str:
        singer = (self.voice or self.song).split(" - ")[0]
        return f"over {self.song}, voice of {singer}, seed {self.seed}"


LINES = (
    SungLine("Ada - Paper Boats", 9.0, "", 1, "we are singing in the morning light"),
    SungLine("Ada - Paper Boats", 20.0, "Bram - Neon Rain", 2, "a letter folded like a bird"),
    SungLine("Bram - Neon Rain", 0.0, "", 3, "the river carries every song tonight"),
    SungLine("Bram - Neon Rain", 12.0, "Cleo - Slow Train", 4, "all the windows hold a little moon"),
    SungLine("Cleo - Slow Train", 11.0, "", 5, "slowly now the summer takes her leave"),
    SungLine("Cleo - Slow Train", 24.0, "Dov - Kitchen Radio", 6, "i will wait beside the garden wall"),
    SungLine("Dov - Kitchen Radio", 0.0, "", 7, "come and dance across the floor with me"),
    SungLine("Dov - Kitchen Radio", 14.0, "Ada - Lantern", 8, "the kettle hums a melody of steam"),
    SungLine("Ada - Lantern", 2.0, "", 9, "nobody told the stars to go to sleep"),
    SungLine("Ada - Lantern", 20.0, "Bram - Gravel Road", 10, "carry the fire over the hill"),
    SungLine("Bram - Gravel Road", 4.0, "", 11, "my old guitar remembers every mile"),
    SungLine("Bram - Gravel Road", 22.0, "Cleo - Slow Train", 12, "home is the sound of rain upon the roof"),
)


@dataclass(frozen=True)
class RealSong:
    """A song to process: audio and lyrics below the folder of real songs, and what its makers allow."""

    name: str
    audio: str
    lyrics: str
    licence: str


REAL_SONGS = (
    RealSong(
        "Jonathan Coulton - Monkey Shines", "ultrastar_cc/Jonathan Coulton - Monkey Shines/audio.mp3",
        "ultrastar_cc/Jonathan Coulton - Monkey Shines/lines.derived.lrc", "CC BY-NC 3.0",
    ),
    RealSong(
        "Jonathan Coulton - Furry Old Lobster", "ultrastar_cc/Jonathan Coulton - Furry Old Lobster/audio.mp3",
        "ultrastar_cc/Jonathan Coulton - Furry Old Lobster/lines.derived.lrc", "CC BY-NC 3.0",
    ),
    RealSong(
        "Los Rombos - Fantasma", "jamendolyrics/mp3/Fantasma_-_Los_Rombos.mp3",
        "jamendolyrics/lyrics/Fantasma_-_Los_Rombos.txt", "CC BY-SA, lyrics without stamps",
    ),
    RealSong(
        "Le Nez Tordu - de bonne humeur", "jamendolyrics/mp3/de_bonne_humeur_-_Le_Nez_Tordu.mp3",
        "jamendolyrics/lyrics/de_bonne_humeur_-_Le_Nez_Tordu.txt", "CC BY-NC-SA, lyrics without stamps",
    ),
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m autosing.cli.samples", description="What the embedded default sounds like, on one page.")
    parser.add_argument("--work", type=Path, default=ROOT / "samples", help="where everything is written")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder of real songs")
    parser.add_argument("--lines", type=int, default=len(LINES), help="lines to sing (default: %(default)s)")
    parser.add_argument("--songs", type=int, default=len(REAL_SONGS), help="songs to process (default: %(default)s)")
    options = parser.parse_args(list(argv))
    work: Path = options.work.resolve()
    if not DEMO.is_dir():
        raise ConfigError(f"no demo songs at '{DEMO}'; run this from a checkout of the project")
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--work: '{work}' cannot be made ({error.strerror}); name another folder") from error
    lines = LINES[: options.lines]
    sing(work, lines)
    songs = chosen_songs(options.shared, options.songs)
    processed, pictures = excerpts(work, Dataset(process(work, songs)), songs) if songs else ([], {})
    with atomic_path(work / "index.html") as path:
        path.write_text(page(work, lines, songs, processed, pictures), encoding="utf-8")
    print(f"\nlisten and look: {work / 'index.html'}")
    return 0


# -- singing -------------------------------------------------------------------------------------------------------------------------


def sing(work: Path, lines: Sequence[SungLine]) -> None:
    """Sing what was not sung before from the same words, songs and weights."""
    done = _read_done(work)
    keys = {number: _key(line) for number, line in enumerate(lines, start=1)}
    due = [number for number, key in keys.items() if done.get(f"{number:02d}") != key or not (_folder(work, number) / "mix.wav").is_file()]
    print(f"{len(lines) - len(due)} of {len(lines)} lines were sung before", flush=True)
    if not due:
        return
    from autosing.cli.sing import write
    from autosing.singing.pipeline import Singer
    from autosing.singing.request import SingRequest

    singer = Singer(cache=work / "cache")
    for number in due:
        line = lines[number - 1]
        print(f"\n[{number}/{len(lines)}] {line.words}: {line.title}", flush=True)
        voices = (DEMO / f"{line.voice}.ogg",) if line.voice else ()
        request = SingRequest(
            line.words, DEMO / f"{line.song}.ogg", start_seconds=line.start, length_seconds=LINE_SECONDS, speaker_files=voices, seed=line.seed
        )
        write(_folder(work, number), singer, request)
        done[f"{number:02d}"] = keys[number]
        with atomic_path(work / DONE) as path:
            path.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")


def _folder(work: Path, number: int) -> Path:
    return work / "sung" / f"{number:02d}"


def _read_done(work: Path) -> dict[str, str]:
    try:
        return dict(json.loads((work / DONE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # nothing sung yet, or edited by hand: all is sung anew
        return {}


def _key(line: SungLine) -> str:
    from autosing.evaluation.result import weights_hash

    songs = [sha256_of(DEMO / f"{name}.ogg") for name in (line.song, line.voice) if name]
    return hashlib.sha256(json.dumps([asdict(line), LINE_SECONDS, songs, weights_hash(), autosing.__version__]).encode()).hexdigest()


def sung_line(work: Path, number: int, line: SungLine) -> tuple[Line, Mapping[str, Any]]:
    """A line as the page shows it, and its report."""
    folder = _folder(work, number)
    report = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    mix, vocals = (decode((folder / f"{name}.wav").read_bytes()) for name in ("mix", "vocals"))
    words = tuple(Word(text, start, end, score or 0.0, row) for text, start, end, score, row in report["words"])
    return shown_line(f"sung {number:02d}", number - 1, words, mix, vocals, 0.0, mix.seconds), report


def shown_line(song: str, number: int, words: Sequence[Word], mix: Audio, vocals: Audio, begin: Seconds, end: Seconds) -> Line:
    """What is heard between two times, with the words that begin there."""
    inside = tuple(w._replace(start=w.start - begin, end=min(w.end, end) - begin) for w in words if begin <= w.start < end)
    score = sum(w.score for w in inside) / len(inside) if inside else 0.0
    clips = clip_of(mix, begin, end), clip_of(vocals, begin, end)
    return Line(song, number, score, inside, begin, end - begin, clips[0], clips[1], peaks_of(vocals, begin, end))


# -- processing ----------------------------------------------------------------------------------------------------------------------


def chosen_songs(shared: Path, count: int) -> tuple[RealSong, ...]:
    """Real songs where all of them are at hand, else demo songs; absolute paths."""
    real = tuple(RealSong(s.name, str(shared / s.audio), str(shared / s.lyrics), s.licence) for s in REAL_SONGS)
    if all(Path(path).is_file() for song in real for path in (song.audio, song.lyrics)):
        return real[:count]
    demo = sorted(p for p in DEMO.glob("*.ogg"))[-len(REAL_SONGS) :]
    texts = {p: next(q for q in (p.with_suffix(".lrc"), p.with_suffix(".txt")) if q.is_file()) for p in demo}
    return tuple(RealSong(p.stem, str(p), str(texts[p]), "demo song, CC0") for p in demo)[:count]


def process(work: Path, songs: Sequence[RealSong]) -> Path:
    """Import the songs and bring separation and alignment up to date, by the commands that a person types; the dataset.

    Raises:
        StageFailed: one of them ended badly.
    """
    given = [path for song in songs for path in map(Path, (song.audio, song.lyrics))]
    key = hashlib.sha256("".join(map(sha256_of, given)).encode()).hexdigest()[:12]  # other songs go beside these
    source, dataset = work / f"songs-{key}" / "source", work / f"songs-{key}" / "dataset"
    source.mkdir(parents=True, exist_ok=True)
    for song in songs:
        for path in map(Path, (song.audio, song.lyrics)):
            with atomic_path(source / f"{song.name}{path.suffix}") as target:
                shutil.copyfile(path, target)
    for command in (["import", str(source), str(dataset)], ["src_sep", str(dataset)], ["align", str(dataset)]):
        print(f"\n$ python -m processing {' '.join(command)}", flush=True)
        code = subprocess.run([sys.executable, "-m", "processing", *command], cwd=ROOT, check=False).returncode
        if code:
            raise StageFailed(f"'{command[0]}' ended with exit code {code}; its message stands above; run this again to go on")
    return dataset


def excerpts(work: Path, dataset: Dataset, songs: Sequence[RealSong]) -> tuple[list[Line], dict[str, str]]:
    """The fullest `EXCERPT_SECONDS` of every processed song, drawn too; and song -> its picture, relative to `work`."""
    from autosing.singing.picture import draw

    wanted = {f"{song.name}{Path(song.audio).suffix}": song for song in songs}
    lines: list[Line] = []
    pictures: dict[str, str] = {}
    for partition in dataset.partitions():
        with (
            TableReader(dataset.table(partition, "index")) as index,
            TableReader(dataset.table(partition, "vocals")) as separated,
            TableReader(dataset.table(partition, "alignment")) as aligned,
        ):
            for row in index.rows(["id", "audio", "source"]):
                song = wanted.get(str(row["source"]).rsplit("/", 1)[-1])
                found, vocals = aligned.get(row["id"], ["alignment"]), separated.get(row["id"], ["audio"])
                if song is None or found is None or vocals is None:
                    continue
                words = Alignment.from_struct(found["alignment"]).words
                begin = fullest(words)
                mix, voice = decode(row["audio"]), decode(vocals["audio"], 1e6)
                end = min(mix.seconds, begin + EXCERPT_SECONDS)
                line = shown_line(song.name, len(lines), words, mix, voice, begin, end)
                pictures[song.name] = f"pictures/{len(lines) + 1}.png"
                (work / "pictures").mkdir(exist_ok=True)
                whole, sung = (cut(audio, begin, end, voice.sample_rate) for audio in (mix, voice))
                draw(work / pictures[song.name], whole, sung, voice.sample_rate, Alignment(line.words), f"{song.name}, from {begin:.0f} s")
                lines.append(line)
    return lines, pictures


def cut(audio: Audio, begin: Seconds, end: Seconds, sample_rate: int) -> Tensor:
    """(C, n) between two times, at `sample_rate` Hz."""
    return resample(audio.samples, audio.sample_rate, sample_rate)[:, round(begin * sample_rate) : round(end * sample_rate)]


def fullest(words: Sequence[Word], seconds: Seconds = EXCERPT_SECONDS) -> Seconds:
    """Half a second before the word from which on most words begin within `seconds`."""
    starts = [word.start for word in words]
    best = max(starts, key=lambda start: sum(start <= other < start + seconds - 1.0 for other in starts), default=0.0)
    return max(0.0, best - 0.5)


# -- the page ------------------------------------------------------------------------------------------------------------------------


def page(work: Path, lines: Sequence[SungLine], songs: Sequence[RealSong], processed: Sequence[Line], pictures: Mapping[str, str]) -> str:
    """The page as text; its pictures and full-quality sounds lie beside it."""
    names = {f"sung {number:02d}": line.title for number, line in enumerate(lines, start=1)}
    names |= {song.name: f"{song.name} ({song.licence})" for song in songs}
    sung = []
    for number, line in enumerate(lines, start=1):
        shown_one, report = sung_line(work, number, line)
        sung.append(line_article(shown_one, f"sung {number}", names, _beside(f"sung/{number:02d}", line, report)))
    heard = [line_article(line, f"song {i}", names, _picture(pictures[line.song], line.song)) for i, line in enumerate(processed, 1)]
    real = any("demo song" not in song.licence for song in songs)
    origin = "real songs under free licences" if real else "demo songs of this repository, since no folder of real songs was at hand"
    return document("AutoSing samples", "What the embedded default sounds like", (
        ("figures", "Figures", figures()),
        ("sung", "Sung", "<p>Lines of our own, sung by sing.py's code with the shipped weights over accompaniments of demo songs; voices are asked for by "
            "a recording. Of four candidates the one whose words the aligner's recogniser hears best is kept, as sing.py does; no line was chosen by ear.</p>" + "".join(sung)),
        ("processed", "Processed", f"<p>Separated and aligned by autosing-process: {origin}. The fullest fifteen seconds of each; the second player has the separated "
            "vocals, the spectrogram shows them.</p>" + "".join(heard)),
    ))  # fmt: skip


def _beside(folder: str, line: SungLine, report: Mapping[str, Any]) -> str:
    error = report["phone_errors"][report["chosen"]]
    alike = report["voice"]["similarity"]
    said = [f"asked: {line.words}"]
    said += [] if error is None else [f"phones heard wrong by the aligner's recogniser: {error:.2f}"]
    said += [] if alike is None else [f"likeness to the asked voice: {alike:.2f}"]
    links = " ".join(f'<a href="{folder}/{name}.wav">{name}.wav</a>' for name in ("mix", "vocals", "accompaniment"))
    return f"<p class=note>{html.escape('; '.join(said))}; {links}</p>{_picture(f'{folder}/picture.png', line.words)}"


def _picture(path: str, words: str) -> str:
    return f'<figure class=picture tabindex=0><img loading=lazy src="{path}" alt="{html.escape(f"words over the spectrogram of the vocals: {words}")}"></figure>'


def figures(shipped: Path = SHIPPED) -> str:
    """The figures of the shipped weights: some large, all in a table."""
    if not shipped.is_file():
        return "<p>None were measured yet.</p>"
    known = read_result(shipped)["figures"]
    rows = []
    for section, title in SECTION_TITLES.items():
        mine = [figure for figure in FIGURES if figure.path[0] == section and figure.name in known]
        rows += [f"<tr><th scope=rowgroup colspan=4><b>{html.escape(title)}</b></th></tr>"] if mine else []
        for figure in mine:
            value = Measured(**known[figure.name])
            asked = "" if figure.asked is None else f"{'at most' if figure.better == '<=' else 'at least'} {figure.asked:g}"
            met = "" if figure.asked is None else "<span class='badge good'>met</span>" if holds(figure, value) else "<span class='badge poor'>not met</span>"
            rows.append(f"<tr><th scope=row>{html.escape(figure.title)}</th><td class=number>{html.escape(shown(figure, value))}</td><td>{asked}</td><td>{met}</td></tr>")
    tiles = "".join(
        f"<div><dt>{html.escape(said)}</dt><dd>{html.escape(shown(BY_NAME[name], Measured(known[name]['value'])))}</dd><dd class=note>"
        f"{'asked: at most' if BY_NAME[name].better == '<=' else 'asked: at least'} {BY_NAME[name].asked:g}</dd></div>"
        for name, said in HEADLINES.items()
        if name in known
    )
    head = "".join(f"<th scope=col>{name}</th>" for name in ("what", "measured [95 %]", "asked", ""))
    return (
        "<p>On songs that no part was trained on; MODEL_CARD.md says how. Phone errors are an independent recogniser's.</p>"
        f"<dl class=tiles>{tiles}</dl><details><summary>All figures</summary><div class=scroll tabindex=0 role=group aria-label='Figures'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


if __name__ == "__main__":
    sys.exit(main())
