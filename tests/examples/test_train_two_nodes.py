"""The sample of a SLURM job: bash reads it, its flags exist, and only a run that was asked to stop is queued again."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from autosing.cli.train import parse

SAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_two_nodes.sbatch"


def test_bash_reads_it():
    subprocess.run(["bash", "-n", str(SAMPLE)], check=True)


def test_its_flags_exist_and_its_batch_can_be_shared():
    text = SAMPLE.read_text()
    command = re.search(r"^srun .*?train\.py(.*?[^\\])\n", text.replace("\\\n", " "), re.M | re.S)
    assert command is not None
    given = parse(shlex.split(command[1]))
    assert given["resume_from"] == "auto" and given["strategy"] == "fsdp"
    wanted = {name: int(number) for name, number in re.findall(r"^#SBATCH --(nodes|ntasks-per-node|gpus-per-node)=(\d+)$", text, re.M)}
    assert wanted["ntasks-per-node"] == wanted["gpus-per-node"]
    assert given["batch_size"] % (wanted["nodes"] * wanted["ntasks-per-node"]) == 0


def test_a_rank_that_stops_first_does_not_kill_the_others():
    """srun would return the signal that ended them, not the code that says "queue me again"."""
    flags = re.search(r"^srun (.*?) python", SAMPLE.read_text(), re.M)
    assert flags is not None
    assert "--kill-on-bad-exit=0" in flags[1].split() and re.search(r"--wait=[1-9]\d*", flags[1])


@pytest.mark.parametrize("code, queued", [(138, "requeue 42\n"), (0, ""), (2, "")])
def test_only_a_run_that_saved_before_its_time_limit_is_queued_again(tmp_path, code, queued):
    for name, script in (("srun", f"exit {code}"), ("scontrol", f"echo $* >> {tmp_path}/queued")):
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(["bash", str(SAMPLE)], env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "42"}, check=False)
    assert done.returncode == code
    assert (tmp_path / "queued").exists() is bool(queued) and (not queued or (tmp_path / "queued").read_text() == queued)
