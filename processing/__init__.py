"""Songs -> tables: one file per step over the partitions of a dataset, and what runs them.

`step.py` says what a step is, `steps.py` names and orders them, `run.py` runs those that are due, `executors/` spreads partitions over
processes. `importing.py` makes the first table from songs in any of `formats/`, `exporting.py` goes the other way, `dataset.py` makes the last
table, shuffled and split for training. `report.py` gathers what `check` says of a dataset, `page.py` shows it.
Nothing here prints or reads the command line (autosing/cli).
"""
