"""TensorBoard's event files, written directly: scalars as records of its Event message, framed as TFRecords.

tensorboardX imports torch where there is one, and once the disk is full its queue waits for ever on a thread that
died, at interpreter exit too. Invariant: when `write` returns, whole records lie in the file.
"""

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

_FLOAT_MAX = 3.4028234e38
_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5
_START = 1


def _crc_table() -> tuple[int, ...]:
    """CRC-32C (Castagnoli, reflected) of each byte."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ 0x82F63B78 * (byte & 1)
        table.append(byte)
    return tuple(table)


_CRC = _crc_table()


class EventFile:
    """One new file, open from the first write to `close`. Errors: OSError."""

    def __init__(self, path: str, first_step: int, at_seconds: float) -> None:
        """Begin with a session start: TensorBoard then forgets what older files beside it hold from that step on."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115, PTH123 - it lives as long as this
        self._append([_version(at_seconds), _session_start(at_seconds, first_step)])

    def write(self, values: Mapping[str, float], step: int, at_seconds: float) -> None:
        """Scalars by tag; those beyond float32 are left out."""
        if fit := {tag: value for tag, value in values.items() if abs(value) <= _FLOAT_MAX}:
            self._append([_scalars(at_seconds, step, fit)])

    def close(self) -> None:
        """Closing twice is fine."""
        self._file.close()

    def _append(self, events: Iterable[bytes]) -> None:
        data = memoryview(b"".join(map(framed, events)))
        while data:
            data = data[self._file.write(data) :]


def framed(data: bytes) -> bytes:
    """A TFRecord: length, its checksum, the data, its checksum."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def masked_crc(data: bytes) -> int:
    """CRC-32C of the data, rotated and offset as TFRecord has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return (crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF


# Event: wall_time 1, step 2, file_version 3, summary 5, session_log 7 (status 1); Summary: value 1 (tag 1, simple 2)
def _version(at: float) -> bytes:
    return _wall_time(at) + _block(3, b"brain.Event:2")


def _session_start(at: float, step: int) -> bytes:
    return _wall_time(at) + _step(step) + _block(7, _key(1, _VARINT) + _varint(_START))


def _scalars(at: float, step: int, values: Mapping[str, float]) -> bytes:
    summary = b"".join(_block(1, _block(1, tag.encode()) + _simple_value(v)) for tag, v in values.items())
    return _wall_time(at) + _step(step) + _block(5, summary)


def _wall_time(seconds: float) -> bytes:
    return _key(1, _DOUBLE) + struct.pack("<d", seconds)


def _step(step: int) -> bytes:
    return _key(2, _VARINT) + _varint(step)


def _simple_value(value: float) -> bytes:
    return _key(2, _FLOAT) + struct.pack("<f", value)


def _block(field: int, data: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(data)) + data


def _key(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _varint(number: int) -> bytes:
    """A protobuf varint of a number from 0 to 2**63 - 1."""
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)
