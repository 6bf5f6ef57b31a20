"""A model hub on localhost: one repository of a few small files, as huggingface_hub asks for them.

Invariant: every file asked for is noted, so that a test sees what was fetched and how often.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME, COMMIT = "org/tiny", "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b"{}", "model.safetensors": b"weights of the hub", "README.md": b"about"}


class Hub:
    """The server; `fetched` holds the names of files as they were sent."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.fetched = files, list[str]()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self, with_body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, with_body=False)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        path = request.path.partition("?")[0]
        if path == f"/api/models/{NAME}/revision/main":
            body = json.dumps({"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": n} for n in self.files]}).encode()
        elif path == f"/api/models/{NAME}/tree/{COMMIT}":
            files = [{"type": "file", "path": n, "size": len(b), "oid": _etag(b)} for n, b in self.files.items()]
            body = json.dumps(files).encode()
        else:
            name = path.removeprefix(f"/{NAME}/resolve/{COMMIT}/")
            if name not in self.files:
                request.send_error(404)
                return
            body = self.files[name]
            if with_body:
                self.fetched.append(name)
        request.send_response(200)
        for key, value in (("Content-Length", str(len(body))), ("ETag", f'"{_etag(body)}"'), ("X-Repo-Commit", COMMIT)):
            request.send_header(key, value)
        request.end_headers()
        if with_body:
            request.wfile.write(body)


def _etag(body: bytes) -> str:
    return hashlib.sha1(body, usedforsecurity=False).hexdigest()


@contextmanager
def running() -> Iterator[Hub]:
    """A hub for the block."""
    hub = Hub(dict(FILES))
    try:
        yield hub
    finally:
        hub.close()
