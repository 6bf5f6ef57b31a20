"""Whether a Ray cluster answers at an address, found out in seconds: `ray.init` alone tries for two minutes.

Invariant: nothing but one connection is made, and PROBE_SECONDS bound it.
"""

import os
import socket
from typing import Any

from semievol_ray.errors import PlacementError

PROBE_SECONDS = 5.0
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What an HTTP/2 client, such as gRPC's, says first: the preface and an empty frame of settings."""
_SETTINGS = 4
"""The kind, in the fourth byte, of the frame with which a server answers."""


def check_address(address: str | None) -> None:
    """Raises PlacementError, within about PROBE_SECONDS, when no Ray cluster answers where `ray.init` would look."""
    where = _where(address)
    if where is None:
        return
    host, _, port = where.rpartition(":")
    if not port.isdigit() or not host:
        raise PlacementError(f"{address!r} is no address of a Ray cluster: give HOST:PORT, such as 10.0.0.5:6379.")
    if reason := _silence(host.strip("[]"), int(port)):
        raise PlacementError(
            f"no Ray cluster answers at {where}: {reason}. Start one there with `ray start --head`, which "
            "prints its address, and see that no firewall is between."
        )


def _where(address: str | None) -> str | None:
    """HOST:PORT that an address stands for; None where a cluster would be started."""
    if address == "local":
        return None
    if address and address != "auto":
        return address.rpartition("://")[2].rstrip("/")
    from ray._private import services

    look_up: Any = services.canonicalize_bootstrap_address
    try:
        found: str | None = look_up(address)
        return found
    except ConnectionError as error:
        raise PlacementError(
            "no Ray cluster runs on this machine. Start one with `ray start --head`, or give its HOST:PORT."
        ) from error


def _silence(host: str, port: int) -> str | None:
    """Why nobody who speaks gRPC is there; None when somebody is."""
    try:
        with socket.create_connection((host, port), timeout=PROBE_SECONDS) as peer:
            if os.environ.get("RAY_USE_TLS") == "1":
                return None  # encrypted: what connects is all that can be seen from here
            peer.sendall(_HELLO)
            said = peer.recv(9)
    except TimeoutError:
        return f"nothing came back in {PROBE_SECONDS:g} seconds"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return None if len(said) > 3 and said[3] == _SETTINGS else "what listens there is no Ray"
