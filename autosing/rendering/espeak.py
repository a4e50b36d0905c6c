"""espeak-ng through ctypes: a word as audio with phone events, or as phones only.

The shared library and its data come from the wheel ``espeakng-loader`` (extra ``render``; GPL-3, a tool for making data, never imported by
the core). The library keeps global state: one speaker a process, not safe for threads. What a symbol means is ``phones``'s business.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np

from autosing.errors import ConfigError
from autosing.rendering.phones import to_arpabet

_PHONEME_EVENT, _LIST_END = 7, 0
_RATE, _PITCH, _RANGE = 1, 3, 4
_UTF8, _IPA_EVENTS = 1, 3
_SYNCHRONOUS = 2
SPOKEN_AS = {"a": "uh", "ooh": "oo", "ah": "aah"}  # alone, espeak reads these as letters or otherwise than in a sentence


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int), ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int), ("sample", ctypes.c_int), ("user_data", ctypes.c_void_p), ("id", ctypes.c_char * 8),
    ]  # fmt: skip


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Utterance:
    """One spoken text: samples float64 in [-1, 1] at `sample_rate` Hz and (onset second, IPA symbol) events in order."""

    samples: np.ndarray
    sample_rate: int
    events: tuple[tuple[float, str], ...]


class Espeak:
    """The speaking engine. Make one a process; raises ConfigError with the way out where the extra is not installed."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise ConfigError("rendering songs needs espeak-ng: pip install 'autosing[render]'") from error
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        data = str(espeakng_loader.get_data_path()).encode()
        self.sample_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, _IPA_EVENTS)
        if self.sample_rate <= 0:
            raise ConfigError(f"espeak-ng did not start from {data.decode()!r}: reinstall espeakng-loader")
        self._voice = ""
        self._blocks: list[np.ndarray] = []
        self._events: list[tuple[float, str]] = []
        self._callback = _CALLBACK(self._collect)  # kept: the library holds only a pointer
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples, count: int, events) -> int:
        if count > 0 and samples:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type != _LIST_END:
            if events[index].type == _PHONEME_EVENT:
                self._events.append((events[index].sample / self.sample_rate, events[index].id.decode("utf-8", "ignore")))
            index += 1
        return 0

    def use(self, voice: str) -> None:
        """Choose the voice, an espeak language with an optional variant such as ``en-us+f2``; ConfigError if there is none."""
        if voice == self._voice:
            return
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ConfigError(f"espeak-ng has no voice {voice!r}: `espeak-ng --voices` lists them")
        self._voice = voice

    def say(self, word: str, voice: str, rate: int = 125, pitch: int = 50, pitch_range: int = 0) -> Utterance:
        """Speak `word`; `rate` in words a minute, `pitch` and `pitch_range` 0 to 100 as espeak defines them."""
        self.use(voice)
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._blocks.clear()
        self._events.clear()
        text = SPOKEN_AS.get(word, word).encode()
        self._library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        samples = np.concatenate(self._blocks) if self._blocks else np.zeros(0, np.int16)
        return Utterance(samples.astype(np.float64) / 32768, self.sample_rate, tuple(self._events))

    def pronounce(self, word: str, voice: str = "en-us") -> tuple[str, ...]:
        """The phones of one word; () for what espeak does not pronounce. Raises phones.UnknownSymbol."""
        self.use(voice)
        text = ctypes.c_char_p(SPOKEN_AS.get(word, word).encode())
        pointer = ctypes.pointer(text)
        phones: list[str] = []
        while text.value:  # one clause a call; the library moves the pointer on
            ipa = self._library.espeak_TextToPhonemes(pointer, _UTF8, 0x02 | ord("_") << 8).decode("utf-8")
            for symbol in ipa.replace(" ", "_").split("_"):
                phones.extend(phone for phone, _ in to_arpabet(symbol))
        while len(phones) > 1 and phones[-1] == "HH":  # "yeah": English has no final h
            phones.pop()
        return tuple(phones)
