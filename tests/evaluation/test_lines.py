"""Figures over many lines, and the comparison of repair with more candidates, by numbers that are known."""

import torch

from autosing.evaluation.lines import Output, of_seams, sung_figures, table
from autosing.evaluation.repair import Way
from autosing.evaluation.windows import Passes, best_of
from autosing.singing.repair import Version
from autosing.singing.score import Score, Take
from autosing.singing.seams import SeamFigures
from autosing.song.alignment import Alignment


def output(singer: int, off: list[float], words: list[tuple[float, bool]]) -> Output:
    asked = torch.eye(3)[singer]
    seams = [SeamFigures(0.8, -2.0, 0.9), SeamFigures(1.4, 1.0, None)]
    row = {"song": str(singer), "similarity": 0.5}
    return Output(row, off, words, 3, 10, (asked * 0.8 + 0.1, asked, str(singer)), seams, [SeamFigures(None, None, None)])


def test_lines_words_and_seams_are_counted_over_all_outputs() -> None:
    found = sung_figures([output(0, [0.1, 0.2, 0.31], [(0.9, True), (0.2, False)]), output(1, [0.0, float("inf")], [(0.8, True)])])
    assert found["lines"] == 5 and found["lines_in_time"] == 0.6 and found["median_line_distance_s"] == 0.2
    assert found["words"] == 3 and found["confidence_auc"] == 1.0 and found["phone_error"] == 0.3
    assert found["asked_voice_auc"] == 1.0
    assert found["seams"]["count"] == 4 and found["seams"]["jump_largest"] == 1.4
    assert found["seams"]["loudness_step_db_mean"] == 1.5 and found["seams"]["voice_cosine_least"] == 0.9
    assert not found["bars"]["lines_in_time"]["ok"] and found["bars"]["largest_jump_at_a_seam"]["ok"]
    assert of_seams([SeamFigures(None, None, None)])["loudness_step_db_mean"] is None


def test_a_table_has_a_row_an_output() -> None:
    lines = table([{"song": "a", "lines": 10}, {"song": "long", "lines": None}]).splitlines()
    assert lines == ["song  lines", "a        10", "long      -"]


def version(error: float) -> Version:
    return Version(torch.zeros(4, 8), torch.full((1,), error), Take(Alignment(()), (), Score(error, 1.0)))


def test_a_way_keeps_its_last_version_where_there_are_fewer_turns() -> None:
    class Ear:
        def phones(self, wav: torch.Tensor) -> tuple[str, ...]:
            return ("a",) if float(wav) < 0.3 else ("b",)

    way = Way.of(2)
    way.add([version(0.5), version(0.2)], Ear())  # type: ignore[arg-type]
    assert way.heard == [[("b",)], [("a",)], [("a",)]] and way.chosen_error == [[0.5], [0.2], [0.2]]
    assert [rate["value"] for rate in way.figures([("a",)])["phone_error"]] == [1.0, 0.0, 0.0]
    way.cost.append({"rows": {}, "seconds": {"sm2a": 3.0, "listen": 1.0}})
    assert way.seconds_a_turn == 2.0
    assert best_of([version(0.5), version(0.2), version(0.2)]) == 1


def test_rows_are_counted_whatever_the_batch() -> None:
    passes, network = Passes(), torch.nn.Linear(2, 2)
    passes.count("net", network)
    network(torch.zeros(3, 2))
    network(torch.zeros(1, 2))
    with passes.stage("work"):
        pass
    first = passes.taken()
    assert first["rows"] == {"net": 4} and "work" in first["seconds"] and passes.taken() == {"rows": {}, "seconds": {}}
