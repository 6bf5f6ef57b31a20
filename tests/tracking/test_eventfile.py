"""Event files against a reader that is not ours: tensorboardX's checksum and its Event message."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from semievol_ray.tracking.eventfile import EventFile, framed


def read_events(path: Path) -> Iterator[Any]:
    """The Event messages of a file, every checksum verified."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    data = path.read_bytes()
    while data:
        length, crc = struct.unpack("<QI", data[:12])
        assert crc == masked_crc32c(data[:8])
        record, (crc,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])
        assert crc == masked_crc32c(record)
        yield Event.FromString(record)
        data = data[16 + length :]


def read_scalars(path: Path) -> list[tuple[str, int, float]]:
    return [(value.tag, event.step, value.simple_value) for event in read_events(path) for value in event.summary.value]


def test_event_file_is_read_back_by_another_reader(tmp_path: Path) -> None:
    path = tmp_path / "new" / "events.out.tfevents.1"
    file = EventFile(str(path), first_step=300, at_seconds=12.5)
    file.write({"train/loss": 0.25, "train/größe": -1e-30}, step=300, at_seconds=13.5)
    file.write({"train/loss": 3.0}, step=2**40, at_seconds=14.5)
    file.close()
    version, start, *scalars = read_events(path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status, start.wall_time) == (300, start.session_log.START, 12.5)
    assert [event.wall_time for event in scalars] == [13.5, 14.5]
    values = read_scalars(path)
    assert [(tag, step) for tag, step, _ in values] == [
        ("train/loss", 300), ("train/größe", 300), ("train/loss", 2**40),
    ]  # fmt: skip
    assert abs(values[1][2] + 1e-30) < 1e-36


def test_value_beyond_float32_leaves_the_others_in(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1"
    file = EventFile(str(path), first_step=0, at_seconds=1.0)
    file.write({"train/huge": 1e300, "train/loss": 1.0}, step=0, at_seconds=1.0)
    file.close()
    assert read_scalars(path) == [("train/loss", 0, 1.0)]


def test_record_checksum_is_crc32c() -> None:
    crc = 0xE3069283  # of 123456789, the check value published with the polynomial
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
    assert framed(b"123456789")[-4:] == struct.pack("<I", masked)
