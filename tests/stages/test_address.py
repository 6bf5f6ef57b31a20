"""Addresses at which no Ray cluster answers are refused at once, and one that asks for a token is shown the user's."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
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


TOKEN = "a" * 64
JOINING = """
import os, sys
from semievol_ray.errors import ClusterError
from semievol_ray.stages.address import use_token
try:
    use_token(sys.argv[1])
    print("joins", os.environ.get("RAY_AUTH_MODE"))
except ClusterError as error:
    print(error)
"""


class Asking(grpc.GenericRpcHandler):
    """What a head node says to those who do not show its token, and to those who do."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def service(self, details: Any) -> Any:
        shown = dict(details.invocation_metadata).get("authorization")

        def answer(_: bytes, call: grpc.ServicerContext) -> bytes:
            from ray.core.generated.gcs_service_pb2 import GetClusterIdReply

            if self._token and shown != f"Bearer {self._token}":
                call.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken: the token is missing or incorrect")
            return bytes(GetClusterIdReply(cluster_id=b"1" * 28).SerializeToString())

        return grpc.unary_unary_rpc_method_handler(answer)


@contextmanager
def head(token: str | None) -> Iterator[str]:
    """The address of a head node that asks for a token, or for none."""
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Asking(token),))
    port = server.add_insecure_port("0.0.0.0:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def joining(where: str, home: Path, token: str | None, **environment: str) -> str:
    """What a process of a user with this token in the home directory says of joining."""
    if token:
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text(token, encoding="utf-8")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    told = subprocess.run(
        [sys.executable, "-c", JOINING, where],
        env={**kept, "HOME": str(home), **environment}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return told.stdout.strip()


def test_cluster_that_asks_for_a_token_is_shown_the_users(tmp_path: Path) -> None:
    with head(TOKEN) as where:
        assert joining(where, tmp_path, TOKEN) == "joins token"


def test_cluster_that_asks_for_no_token_is_shown_none(tmp_path: Path) -> None:
    with head(None) as where:
        assert joining(where, tmp_path, TOKEN) == "joins None"


@pytest.mark.parametrize(
    ("token", "environment"),
    [(None, {}), ("b" * 64, {}), (TOKEN, {"RAY_AUTH_MODE": "disabled"}), (None, {"RAY_AUTH_MODE": "token"})],
)
def test_cluster_whose_token_is_not_at_hand_is_refused_with_what_to_set(
    token: str | None, environment: dict[str, str], tmp_path: Path
) -> None:
    with head(TOKEN) as where:
        told = joining(where, tmp_path, token, **environment)

    assert told.startswith(f"the Ray cluster at {where} takes only who shows its token")
    assert {"RAY_AUTH_MODE=token,", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} <= set(told.split())
