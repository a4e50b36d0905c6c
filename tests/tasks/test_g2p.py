"""The letters-to-phones task: rows of a lexicon, examples, and that a few words are learnt."""

from pathlib import Path

import numpy as np
import pytest
import torch

from autosing.errors import DataError
from autosing.models.g2p import decode
from autosing.tokens.text import PHONES
from autosing.training.data import DatasetConfig
from autosing.training.task import DatasetMeta
from tasks.g2p import TASK, is_held_out, read_lexicon

WORDS = {
    "cat": "K AE T",
    "cats": "K AE T S",
    "mat": "M AE T",
    "fox": "F AA K S",
    "mix": "M IH K S",
    "a": "AH",
    "sea": "S IY",
    "tea": "T IY",
}


@pytest.fixture
def lexicon(tmp_path: Path) -> Path:
    path = tmp_path / "lexicon.tsv"
    path.write_text("".join(f"{word}\t{phones}\n" for word, phones in WORDS.items()))
    return path


def task():
    return TASK(TASK.Args(width=48, blocks=2, dropout=0.0), TASK.Tunables(), DatasetMeta())


def test_words_of_a_family_stay_on_one_side() -> None:
    assert is_held_out("walking", 0.5) == is_held_out("walkings", 0.5)
    share = np.mean([is_held_out(f"{number:05d}", 0.05) for number in range(4000)])
    assert 0.03 < share < 0.07


def test_rows_cover_the_lexicon(lexicon: Path) -> None:
    train, validation, meta = TASK.open_rows(DatasetConfig(path=str(lexicon), validation_share=0.3))
    assert {row["word"] for row in (*train, *validation)} == set(WORDS)
    assert meta.rows == len(train) and meta.kind == "lexicon"


@pytest.mark.parametrize("line", ["word only", "word\tK QQ T", "\t"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "lexicon.tsv"
    path.write_text(f"cat\tK AE T\n{line}\n")
    with pytest.raises(DataError, match="line 2"):
        read_lexicon(path)


def test_words_that_cannot_be_learnt_are_left_out() -> None:
    rng = np.random.default_rng(0)
    for word, phones in (("né", "N EY"), ("x" * 21, "K S"), ("a", "AH AH AH")):
        assert task().example({"word": word, "phones": phones}, rng) is None


def test_a_few_words_are_learnt() -> None:
    torch.manual_seed(0)
    trainee = task()
    examples = [trainee.example({"word": w, "phones": p}, np.random.default_rng(0)) for w, p in WORDS.items()]
    batch = {key: torch.stack([e[key] for e in examples]) for key in examples[0]}
    model = trainee.build_model()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        trainee.losses(model, batch).total.backward()
        optimizer.step()
    metrics = trainee.losses(model.eval(), batch).metrics
    assert float(metrics["phone_error"]) < 0.1
    scores = model(batch["letters"][:1, :3])
    assert [PHONES[i - 1] for i in decode(scores, torch.tensor([9]))[0]] == ["K", "AE", "T"]
