"""Tokenised examples in files: what is read is what was tokenised, and it is the same that a worker tokenises."""

from pathlib import Path

import pytest
import trainingcells as cells

from semievol_ray import storage
from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.engines import examples
from semievol_ray.engines.batches import in_order
from semievol_ray.engines.examples import sizes_of
from semievol_ray.engines.finetune import read_examples, tokenised, write_tokens
from semievol_ray.engines.fit import lengths_of
from semievol_ray.engines.loss import TrainingExample
from semievol_ray.engines.rendering import load_tokenizer
from semievol_ray.errors import DataError

PARTS = [
    [TrainingExample((5, 6, 7), 1, 0.1, "a"), TrainingExample(tuple(range(20)), 3, 1.0, "b")],
    [],
    [TrainingExample((2**31 - 1,), 1, 0.25, "\u00e9")],
]


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder on disk, and one in an object store."""
    return str(tmp_path) if request.param == "disk" else f"{request.getfixturevalue('s3_root')}/tokens"


def test_stored_examples_come_back_as_they_were(folder: str) -> None:
    paths = [f"{folder}/a.arrow", f"{folder}/b.arrow"]
    examples.store(paths[0], PARTS)
    examples.store(paths[1], PARTS[:1])
    found, plain = examples.opened(paths), [*PARTS[0], *PARTS[2], *PARTS[0]]
    assert list(found) == plain
    assert (found[-1], found[1:4]) == (plain[-1], plain[1:4])
    assert [sizes.tolist() for sizes in sizes_of(found)] == [sizes.tolist() for sizes in sizes_of(plain)]
    assert lengths_of(found, 2) == [(20, 3), (20, 3)]
    with pytest.raises(IndexError):
        found[5]
    examples.forget(paths)
    assert found[3] == plain[3]  # what is open stays so
    assert list(examples.opened(paths[1:])) == PARTS[0]


def test_written_tokens_are_those_that_a_worker_makes_itself(tiny_llama: Path, tmp_path: Path) -> None:
    spec = cells.spec_in(tmp_path / "cell", tiny_llama, TrainConfig(train_batch_size=4), SpeedConfig())
    plain = tokenised(read_examples(spec.examples), spec, load_tokenizer(str(tiny_llama)))
    write_tokens(spec, spec.examples, f"{tmp_path}/tokens.arrow")
    found = examples.opened([f"{tmp_path}/tokens.arrow"])
    assert list(found) == plain
    assert list(in_order(found, spec.train, 1)) == list(in_order(plain, spec.train, 1))


def test_row_that_is_too_long_is_refused_while_tokens_are_written(tiny_llama: Path, tmp_path: Path) -> None:
    spec = cells.spec_in(tmp_path / "cell", tiny_llama, TrainConfig(), SpeedConfig(), max_model_len=20)
    with pytest.raises(DataError, match=r"row row-0 takes \d+ tokens, more than numerics.max_model_len 20"):
        write_tokens(spec, spec.examples, f"{tmp_path}/tokens.arrow")
    assert not storage.exists(f"{tmp_path}/tokens.arrow")
