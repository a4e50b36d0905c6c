"""Sing new words over a recording: `python sing.py --reference song.mp3 --lyrics $'la la la la\nla la la la'`."""

import sys

from autosing.cli.sing import main

if __name__ == "__main__":
    sys.exit(main())
