"""Ratios against peers, each pair measured in one run. Not installed, not imported by the package, not run by the test suite.

    python -m benchmarks.train_step --size tiny [--peers-python <a venv with whisperspeech 0.8.9>/bin/python]
    python -m benchmarks.loader

Both sides run in processes of their own with equal threads and allocator settings, and take turns step by step. The last line of
the output is one JSON object with the figures and, under "bars", each one that was asked for.
"""
