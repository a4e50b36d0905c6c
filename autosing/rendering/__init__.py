"""Sung songs with exactly known truth: words, melody, band, singer and mix -> rows of a dataset.

Built for training the builtin models and for tests with exact ground truth. A word is spoken once by espeak-ng, analysed with WORLD,
stretched to the notes of a melody and mixed with a band. Both engines are the optional extra ``render`` and are imported only inside
the classes that use them; nothing else in the project depends on this room. Conventions: audio 24 kHz float32, times in seconds,
frames every 5 ms (200 Hz), pitch in MIDI numbers, phones in the ARPAbet of ``autosing.tokens.text`` without stress.
Run ``python -m autosing.rendering --help`` for the commands.
"""
