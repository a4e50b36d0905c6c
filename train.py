"""Train one task on one dataset.

python train.py --task_name t2s --task_args '{"size": "tiny"}' --dataset-config '{"path": "data/train"}' --tunables '{"lr0": 4e-3}'
"""

import sys

from autosing.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
