"""Evaluation: intelligibility, alignment, separation, voices, codecs; figures beside their bars."""
