"""Who reads which row, for any ranks, workers and partitions: every row of an epoch once, no row twice."""

from itertools import pairwise

import pytest
import toy_task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autosing.training.batches import Plan, TrainBatches, ValidationBatches
from autosing.training.data import DatasetConfig, open_dataset
from autosing.training.loader import prefetch
from autosing.training.rows import JoinedRows
from autosing.training.task import DatasetMeta

TASK = toy_task.ToyTask(toy_task.ToyArgs(), toy_task.ToyTunables(), DatasetMeta())


def rows_of(sizes: list[int]) -> JoinedRows:
    """Partitions of these sizes; rows are numbered through."""
    numbers = iter(range(sum(sizes)))
    return JoinedRows([[{"id": str(n), "number": n, "x": [0.0, 1.0, 2.0]} for _, n in zip(range(size), numbers, strict=False)] for size in sizes])


sizes_of_partitions = st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any)


@given(sizes=sizes_of_partitions, world=st.integers(1, 8), share=st.integers(1, 3), seed=st.integers(0, 99), epoch=st.integers(0, 2))
def test_ranks_share_an_epoch_without_overlap(sizes, world, share, seed, epoch):
    rows = rows_of(sizes)
    plan = Plan(len(rows), world * share, seed)
    first, end = epoch * len(rows), (epoch + 1) * len(rows)
    read: list[tuple[int, int]] = []
    for rank in range(world):
        batches = TrainBatches(TASK, rows, plan, rank, world)
        for micro in range(first // plan.batch_size, -(-end // plan.batch_size)):
            positions = plan.positions(micro, rank, world)
            assert len(positions) == share
            read += [(p, batches.row_index(p)) for p in positions if first <= p < end]
    assert sorted(p for p, _ in read) == list(range(first, end))
    assert sorted(row for _, row in read) == list(range(len(rows)))


@settings(max_examples=6)
@given(sizes=sizes_of_partitions, world=st.integers(1, 3), workers=st.integers(0, 2), start=st.integers(0, 5))
def test_workers_of_ranks_read_what_one_process_reads(sizes, world, workers, start):
    """Also from the middle on, as after a restart; each micro-batch is the ranks' parts one after the other."""
    rows = rows_of(sizes)
    plan, numbers = Plan(len(rows), 2 * world, 3), range(start, start + 4)
    whole = [TrainBatches(TASK, rows, plan)[micro].ids for micro in numbers]
    parts = [[b.ids for b in prefetch(TrainBatches(TASK, rows, plan, rank, world), numbers, workers)] for rank in range(world)]
    assert [sum(ranks, ()) for ranks in zip(*parts, strict=True)] == whole


@given(count=st.integers(1, 40), limit=st.integers(1, 40), batch_size=st.integers(1, 9), world=st.integers(1, 5))
def test_ranks_share_the_validation_rows(count, limit, batch_size, world):
    batches = ValidationBatches(TASK, rows_of([count]), batch_size, limit)
    read = [identity for rank in range(world) for number in range(rank, len(batches), world) for identity in batches[number].ids]
    assert len(read) == len(set(read)) == min(count, limit)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return toy_task.write_songs(tmp_path_factory.mktemp("many") / "data", rows=29, partitions=7)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 6), max_size=3, unique=True).map(sorted))
def test_runs_over_ranges_of_partitions_share_the_dataset(many, cuts):
    edges = [0, *cuts, 7]
    read = []
    for begin, end in pairwise(edges):
        config = DatasetConfig(path=str(many), validation_share=0.0, partition_offset=begin, num_partitions=end - begin)
        read += [row["number"] for row in open_dataset(TASK, config, DatasetMeta()).train]
    assert sorted(read) == list(range(29))
