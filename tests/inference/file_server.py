"""A real HTTP server on loopback that serves one file: with ranges or without, cut short, failing, or lying."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FileServer:
    """What it serves and how; ``asked`` are the Range headers that came, in order."""

    content: bytes
    ranges: bool = True
    cut: list[int] = field(default_factory=list)
    """How many bytes each of the next answers sends before it breaks off."""
    fail: list[int] = field(default_factory=list)
    """Statuses of the next answers."""
    content_range: str = ""
    """Said instead of the true one."""
    pages: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Other paths: content type and text."""
    asked: list[str | None] = field(default_factory=list)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if (page := self.pages.get(request.path)) is not None:
            self._send(request, 200, page[1].encode(), {"content-type": page[0]})
            return
        if not request.path.endswith("/model.bin"):
            self._send(request, 404, b"", {})
            return
        given = request.headers.get("range")
        self.asked.append(given)
        if self.fail:
            self._send(request, self.fail.pop(0), b"no", {})
            return
        size = len(self.content)
        found = re.fullmatch(r"bytes=(\d+)-", given or "") if self.ranges else None
        start = int(found[1]) if found else 0
        if found and start >= size:
            self._send(request, 416, b"", {"content-range": self.content_range or f"bytes */{size}"})
            return
        said = self.content_range or f"bytes {start}-{size - 1}/{size}"
        self._send(request, 206 if found else 200, self.content[start:], {"content-range": said} if found else {})

    def _send(self, request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
        request.send_response(status)
        for name, value in ({"content-length": str(len(body))} | headers).items():
            request.send_header(name, value)
        request.end_headers()
        is_file = status in {200, 206} and body and body in self.content
        request.wfile.write(body[: self.cut.pop(0)] if is_file and self.cut else body)


@contextmanager
def serve_file(content: bytes, **options: Any) -> Iterator[FileServer]:
    """Serve until left."""
    server = FileServer(content, **options)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: tests ask for ``asked``."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}/model.bin"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
