"""Addresses at which no Ray cluster answers are refused at once."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from semievol_ray.errors import PlacementError
from semievol_ray.stages import address
from semievol_ray.stages.address import check_address


@contextmanager
def listening(says: bytes) -> Iterator[str]:
    """A port that accepts one connection, says something and holds it until the block ends."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(33)
                peer.sendall(says)
                ended.wait(10)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        ended.set()
        thread.join()


def test_address_where_nothing_listens_is_refused_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()

    with pytest.raises(PlacementError, match=rf"no Ray cluster answers at 127.0.0.1:{port}: connection refused"):
        check_address(f"127.0.0.1:{port}")
    assert time.monotonic() - began < 5


def test_address_that_accepts_and_stays_silent_is_refused_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "PROBE_SECONDS", 0.2)

    with listening(b"") as where, pytest.raises(PlacementError, match=r"nothing came back in 0\.2 seconds"):
        check_address(where)


def test_address_of_another_service_is_refused() -> None:
    with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as where, pytest.raises(PlacementError, match="is no Ray"):
        check_address(where)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_address_that_answers_as_grpc_does_is_taken(scheme: str) -> None:
    with listening(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))) as where:
        check_address(f"{scheme}{where}")


@pytest.mark.parametrize("wrong", ["10.0.0.5", "head:", ":6379", "head:redis"])
def test_address_without_host_or_port_is_told_with_an_example(wrong: str) -> None:
    with pytest.raises(PlacementError, match="give HOST:PORT, such as"):
        check_address(wrong)
