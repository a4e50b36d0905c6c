"""What is sung: a vocabulary split between training and test, and a grammar of lines.

Content words come from a table of song words by kind and, if a frequency list is given, from its most frequent suitable words. HELD_OUT of
the content words (chosen by a hash of the word) are sung in the test split only, which sings no others; function words are shared. Lines are
lower case with a capital first letter and no punctuation, so `line.split()` gives the sung words.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HELD_OUT = 0.15
FUNCTION = """i you he she we they it me him her us them my your his our their this that these those what who when where why how the a and or
but if so because than then now here there in on at to from with without for of by up down out off into like as all every some any no not
more is was are were be been am do did does have had has will would can could should may must let get got don't can't won't i'm you're we're
they're it's i'll you'll we'll i've you've never always only just too again still oh yeah ooh hey""".split()  # noqa: SIM905
SONG_WORDS: dict[str, list[str]] = {
    "noun": """love heart night day light time world eyes dream sky rain fire star moon sun sea river road home hand soul song life mind face
name girl boy baby lady man woman friend lover angel devil heaven summer winter spring morning evening midnight shadow whisper thunder
lightning ocean mountain valley city street window door mirror picture story memory moment minute hour yesterday tomorrow water paper money
power flower feather letter number color promise secret danger stranger treasure pleasure freedom kingdom diamond crystal candle cradle
station engine highway railway airplane garden forest desert island harbor bridge tower castle glass stone steel iron wood leather velvet
satin sugar honey coffee whiskey poison medicine music rhythm guitar piano drummer radio telephone television hurricane breeze snow ice fog
cloud storm wave tide shore beach bird dog cat horse wolf lion tiger snake spider butterfly finger shoulder knee head hair skin bone blood
breath tear mouth tongue voice sound noise silence sorrow trouble pain joy pride shame fear anger courage mercy grace faith truth war peace
church school train car ship boat plane wheel king queen prince joker party dancer singer dollar pocket table chair kitchen ceiling floor
wall roof corner alley market village country town field meadow hill rainbow sunset sunrise daylight starlight moonlight firefly sparrow
eagle raven garage motor pistol trigger hammer anchor sailor soldier teacher preacher doctor lawyer sister brother mother father daughter
children people nobody somebody everybody nothing something everything heaven gravity galaxy satellite universe planet rocket neon shade
fever vision reason season ocean lesson ribbon thread needle jacket boots dress smile touch kiss embrace goodbye hello dawn dusk ember ash
flame spark dust sand rust gold silver pearl ruby rose thorn daisy lily willow maple cedar apple cherry lemon orange peach berry wine bread
salt ghost giant pirate gypsy hero villain beggar chain rope ladder key lock clock bell drum violin trumpet choir melody harmony tune echo
desire passion wonder fortune danger evil justice future history century anniversary journey mystery jealousy""".split(),  # noqa: SIM905
    "verb": """love need want know feel see hear think believe remember forget find lose follow wonder tell say call ask try live die kiss
touch open close begin end start stop wait dream hope wish pray play move change save lead bring carry build grow show throw turn run fly
fall rise dance sing cry laugh smile breathe walk talk shine burn break make take give hold keep leave stay go come sit stand sleep wake eat
drink drive ride sail swim climb jump push pull cut tie bend shake roll rock wander whisper shout scream chase catch hide seek fight win
surrender deliver discover imagine celebrate promise forgive deny heal mend steal borrow paint draw write read learn teach count measure
trust doubt fear miss hate hurt bleed drown float drift spin slide crawl""".split(),  # noqa: SIM905
    "adjective": """true wrong right good bad better best high low deep fast slow long short hard soft strong weak empty heavy hollow silent
quiet loud young old new blue red green black white dark bright warm cold hot sweet bitter gentle wild free happy pretty ugly little big
small crazy lazy lonely broken golden purple yellow wonderful beautiful terrible impossible holy hungry thirsty tired sober easy early
steady ready guilty innocent electric magic tragic plastic fearless careless reckless restless endless timeless priceless tender brand
frozen burning shining falling flying dancing singing running waiting dreaming crying laughing smiling breathing walking talking rolling
rising fading drifting spinning haunted wasted faded tangled shattered""".split(),  # noqa: SIM905
    "adverb": """together forever tonight today away around over under through across between behind before after until maybe slowly softly
gently quickly suddenly really truly finally almost alone apart inside outside everywhere anywhere nowhere somehow sometimes anymore baby
darling honey one two three four five six seven eight nine ten hundred thousand million first last second""".split(),  # noqa: SIM905
}
TEMPLATES = tuple(
    tuple(line.split())
    for line in """
i verb the noun of my noun|you are the adjective noun in my noun|we verb like a noun in the noun|and i verb adverb|the noun is adjective adverb
don't verb me adverb|when the noun verb adverb|all the adjective noun verb in the noun|oh my adjective noun|i can't verb without your noun
verb me like the noun|there is no noun in the adjective noun|so we verb and we verb|adjective noun adjective noun|you verb my noun adverb
every noun and every noun|i will verb you adverb|noun after noun|let the noun verb you|what if the noun was adjective
they never verb the noun|how can i verb this adjective noun|she was a noun with adjective noun|he had the noun of a adjective noun
we're only noun in the noun|i've got a noun and a noun|you'll be my noun adverb|it's a adjective adjective noun|verb verb verb adverb
where the noun and the noun verb|if you verb then i verb|under the adjective noun we verb|hey noun don't you verb|yeah i verb the noun
any any any any|i any the any any|any and any|the any any of any|you any me any any|any any in the any any|my any is any any
to the any of the any|no any no any|any any any any any|we any the any and the any any|when any any you any
""".replace("\n", "|").strip("|").split("|")
)  # fmt: skip
_UNSUITABLE = frozenset(
    """button cotton rotten gotten kitten mitten bitten written mountain fountain curtain certain certainly captain important suddenly sudden
couldn't didn't wouldn't shouldn't hadn't hidden wooden garden golden mr mrs ms dr st etc ii iii iv vi co ed re th ll ve don mm hm hmm
shit fuck fucking fucked bitch bitches damn hell ass bastard cock dick pussy cunt nigger nigga negro whore slut rape sex sexual naked breasts
breast nipple nipples penis vagina kill killed killing murder murdered dead corpse gun guns jesus christ god lord jack john james george
mary tom bob jim david michael peter paul sam ben joe charles william henry robert richard thomas edward frank alice anna emma sarah jane""".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Vocabulary:
    """Content words by kind, as one split may sing them; "any" holds all of them."""

    kinds: dict[str, tuple[str, ...]]


def is_held_out(word: str) -> bool:
    """Whether only the test split sings this content word."""
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little") / 2**32 < HELD_OUT


def frequent_content_words(path: Path, limit: int = 1100) -> list[str]:
    """The `limit` most frequent lower-case words (3 to 11 letters) of a ``ngram,freq`` table that fit a song."""
    found: list[str] = []
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            word = row["ngram"]
            fits = word.isascii() and word.isalpha() and word.islower() and 3 <= len(word) <= 11
            if fits and word not in _UNSUITABLE and word not in FUNCTION:
                found.append(word)
            if len(found) == limit:
                break
    return found


def vocabulary(split: str, words_csv: Path | None = None) -> Vocabulary:
    """The content words of a split ("train" or "test"), with the frequency list's words added if there is one."""
    kinds: dict[str, list[str]] = {kind: list(dict.fromkeys(words)) for kind, words in SONG_WORDS.items()}
    kinds["any"] = [word for words in kinds.values() for word in words]
    if words_csv is not None:
        kinds["any"] += frequent_content_words(words_csv)
    held = split == "test"
    return Vocabulary(
        {
            kind: tuple(
                word
                for word in dict.fromkeys(words)
                if is_held_out(word) == held and word not in FUNCTION and word not in _UNSUITABLE
            )
            for kind, words in kinds.items()
        }
    )


def write_line(vocabulary: Vocabulary, rng: np.random.Generator, most_words: int = 9) -> list[str]:
    """One line of 3 to `most_words` lower-case words. The grammar's joints ("a" before a vowel) are left rough: it trains ears."""
    for _ in range(20):
        template = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
        if rng.random() < 0.12:
            template = template + TEMPLATES[int(rng.integers(len(TEMPLATES)))]
        words = [str(rng.choice(vocabulary.kinds[slot])) if slot in vocabulary.kinds else slot for slot in template]
        if 3 <= len(words) <= most_words:
            return words
    return words[:most_words]
