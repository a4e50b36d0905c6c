"""One file per trainable thing; each exports `TASK` (see autosing/training/task.py). Adding a task is one new file and one row.
What tasks over token sequences share is `sequence.py`.

Two things are fitted by commands of their own instead. The semantic codebook (`autosing.perception.semantic.fit`): discriminants, k-means and a convex
read-out have no steps to schedule, save or resume. The codec's codebooks (`autosing.perception.codec.fit`): each level is fitted to what the one
before left over, and the reader of phones that judges levels 2 and 3 is taught in the same few minutes, on features held in memory.
"""

from autosing.registry import Registry

TASKS = Registry(
    "task",
    {
        "t2s": "tasks.t2s:TASK",
        "sm2a": "tasks.sm2a:TASK",
        "sm2a_parallel": "tasks.sm2a_parallel:TASK",
        "artist": "tasks.artist:TASK",
        "acoustic": "tasks.acoustic:TASK",
        "separator": "tasks.separator:TASK",
        "pitch": "tasks.pitch:TASK",
        "voice": "tasks.voice:TASK",
        "g2p": "tasks.g2p:TASK",
    },
)
