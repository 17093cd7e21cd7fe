"""The live page of a search, served to a browser on this machine."""

from __future__ import annotations

import errno
import os
import socket
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from paramap_d2.errors import UserError

from .report.live import LivePage
from .store import StoreError

PORT = 8765
"""Where nothing else is asked for; another free one where it is taken."""

LOOPBACK = "127.0.0.1"

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class _Handler(BaseHTTPRequestHandler):
    """Answers for two addresses: the page, and the part of it that tells what goes on."""

    server: _Server
    timeout = 60

    def do_GET(self) -> None:
        pages = {"/": self.server.live.page, "/live": self.server.live.now}
        make = pages.get(self.path.partition("?")[0])
        if make is None:
            self._answer(HTTPStatus.NOT_FOUND, "there is nothing else here", "text/plain")
            return
        try:
            content = make()
        except StoreError as error:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, str(error), "text/plain")
        else:
            self._answer(HTTPStatus.OK, content, "text/html")

    do_HEAD = do_GET

    def _answer(self, status: HTTPStatus, text: str, kind: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing: a page that is open asks every few seconds."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], live: LivePage):
        self.live = live
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Of a browser that went away nothing is said."""
        import sys

        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def server(output: str | os.PathLike[str], host: str = LOOPBACK, port: int | None = None) -> ThreadingHTTPServer:
    """A server of the search in a folder; ``serve_forever()`` lets it begin, ``server_close()`` ends it.

    Args:
        host: an address of this machine. Whoever reaches it can read the search, and no more.
        port: 0 for any that is free; None for :data:`PORT`, or any where that is taken.

    Raises:
        StoreError: no search is there, or its store cannot be read.
        UserError: the address or the port cannot be had.
    """
    live = LivePage(output)
    try:
        return _Server((host, PORT if port is None else port), live)
    except OSError as error:
        if port is None and error.errno == errno.EADDRINUSE:
            return server(output, host, 0)
        raise UserError(f"cannot serve at {host}, port {PORT if port is None else port}: {error.strerror}") from None


def address(of: ThreadingHTTPServer) -> str:
    """What to open in a browser."""
    host, port = of.server_address[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
