"""Tokenise: each file of tokens once, and none for a few rows."""

from pathlib import Path

import pytest

from benchmarks.kill_training_model import NUM_ROWS, spec_in, write_model
from semievol_ray import storage
from semievol_ray.engines.finetune import read_examples, tokenised
from semievol_ray.engines.rendering import load_tokenizer
from semievol_ray.stages import tokenise
from semievol_ray.stages.tokenise import files_of, with_tokens

pytestmark = pytest.mark.usefixtures("mapped_here")


def test_files_hold_all_tables_in_order_and_are_no_more_than_can_be_held_open() -> None:
    tables = tuple(map(str, range(1000)))
    files = files_of(tables)
    assert len(files) == tokenise.MOST_FILES
    assert tuple(table for name in sorted(files) for table in files[name]) == tables
    assert files_of(tables[:2]) == {"00000-of-00002.arrow": ("0",), "00001-of-00002.arrow": ("1",)}


def test_tokens_are_made_once_and_the_missing_ones_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from semievol_ray.engines.examples import opened

    monkeypatch.setattr(tokenise, "FEWEST_ROWS", 1)
    spec, folder, made = (
        spec_in(tmp_path, write_model(tmp_path / "model"), workers=1, zero_stage=2),
        f"{tmp_path}/t",
        [0],
    )

    def count() -> None:
        made[0] += 1

    found = with_tokens(spec, folder, NUM_ROWS, count)
    assert found.tokens == (f"{folder}/00000-of-00001.arrow",)
    plain = tokenised(read_examples(spec.examples), spec, load_tokenizer(spec.model_path))
    assert list(opened(found.tokens)) == plain
    assert with_tokens(spec, folder, NUM_ROWS, count) == found
    assert made == [1]
    storage.remove(found.tokens[0])
    assert with_tokens(spec, folder, NUM_ROWS, count) == found
    assert made == [2]


def test_few_rows_are_left_to_the_workers(tmp_path: Path) -> None:
    spec = spec_in(tmp_path, tmp_path / "no-model", workers=1, zero_stage=2)
    assert with_tokens(spec, f"{tmp_path}/t", NUM_ROWS) == spec
