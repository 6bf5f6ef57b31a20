"""Slots: the same path again, and never for two at once."""

import os
import tempfile
from pathlib import Path

import pytest

from semievol_ray.engines.slots import slot


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


def test_slot_is_a_new_folder_where_the_usual_place_is_no_folder_of_ours(tmp_path: Path) -> None:
    (tmp_path / f"semievol-served-{os.getuid()}").write_text("a file")
    with slot() as folder:
        assert Path(folder).is_dir()
        assert f"semievol-served-{os.getuid()}/" not in folder
