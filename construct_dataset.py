"""Processed partitions -> a shuffled dataset split by song, ready to train on.

python construct_dataset.py <data_dir> <num_in> <output_dir> --num-out-partitions 512
"""

import sys

from autosing.cli.construct_dataset import main

if __name__ == "__main__":
    sys.exit(main())
