"""Slots: the same path again, never for two at once but for those that want the same in it."""

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from semievol_ray.engines.slots import shared_slot, slot


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_slot_is_the_same_empty_folder_again_and_another_while_it_is_held() -> None:
    with slot() as first:
        Path(first, "model.safetensors").write_bytes(b"weights")
        with slot() as second:
            assert second != first
            assert list(Path(second).iterdir()) == []
    assert not Path(first).exists()
    with slot() as again:
        assert again == first
        assert list(Path(again).iterdir()) == []


def test_what_a_killed_process_left_in_a_slot_is_gone() -> None:
    with slot() as folder:
        pass
    Path(folder).mkdir()
    Path(folder, "left").write_text("")
    with slot() as again:
        assert (again, list(Path(again).iterdir())) == (folder, [])


def test_what_many_want_is_made_once_and_gone_when_the_last_has_left() -> None:
    made: list[str] = []

    def fill(folder: str) -> None:
        made.append(folder)
        time.sleep(0.2)
        Path(folder, "model.safetensors").write_bytes(b"weights")

    def use(_: int) -> str:
        with shared_slot("base and adapter", fill) as folder:
            assert Path(folder, "model.safetensors").read_bytes() == b"weights"
            time.sleep(0.2)
            return folder

    with ThreadPoolExecutor(8) as threads:
        used = set(threads.map(use, range(8)))
    assert used == set(made)
    assert len(made) == 1
    assert not Path(made[0]).exists()
    with shared_slot("base and the next adapter", fill) as again, slot() as other:
        assert (again, len(made)) == (made[0], 2)
        assert other != again


def test_different_models_do_not_share_a_slot_and_a_failed_one_leaves_nothing() -> None:
    def fail(folder: str) -> None:
        Path(folder, "half").write_text("")
        raise OSError("no space")

    with shared_slot("one", lambda _: None) as one, shared_slot("two", lambda _: None) as two:
        assert one != two
    with pytest.raises(OSError, match="no space"), shared_slot("three", fail):
        pass
    with shared_slot("three", lambda _: None) as folder:
        assert list(Path(folder).iterdir()) == []


def test_slot_is_a_new_folder_where_the_usual_place_is_no_folder_of_ours(tmp_path: Path) -> None:
    (tmp_path / f"semievol-served-{os.getuid()}").write_text("a file")
    with slot() as folder:
        assert Path(folder).is_dir()
        assert f"semievol-served-{os.getuid()}/" not in folder
    with shared_slot("one", lambda made: Path(made, "model").write_text("")) as folder:
        assert Path(folder, "model").is_file()
