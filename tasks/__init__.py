"""One file per trainable thing; each exports `TASK` (see autosing/training/task.py). Adding a task is one new file and one row."""

from autosing.registry import Registry

TASKS = Registry(
    "task",
    {
        "t2s": "tasks.t2s:TASK",
        "sm2a": "tasks.sm2a:TASK",
        "artist": "tasks.artist:TASK",
        "acoustic": "tasks.acoustic:TASK",
        "separator": "tasks.separator:TASK",
        "pitch": "tasks.pitch:TASK",
        "voice": "tasks.voice:TASK",
        "g2p": "tasks.g2p:TASK",
    },
)
