"""A small HTTP server on loopback that answers as a test says: real sockets, real faults."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Script = Callable[["Call"], None]


def completion(
    text: Any = "fine", *, usage: Any = (3, 2), top: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The body of a chat completion; `top` are log-probabilities of the first token."""
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text},
    }
    if top is not None:
        alternatives = [{"token": t, "logprob": v, "bytes": None} for t, v in top.items()]
        first = {**alternatives[0], "top_logprobs": alternatives}
        choice["logprobs"] = {"content": [first]}
    body: dict[str, Any] = {"id": "1", "object": "chat.completion", "choices": [choice]}
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return body


class Call:
    """A request, and the ways to answer it."""

    def __init__(self, handler: BaseHTTPRequestHandler, number: int, stop: threading.Event) -> None:
        self._handler = handler
        self._stop = stop
        self.number = number
        """From 1, in the order in which they came."""
        self.headers = {k.lower(): v for k, v in handler.headers.items()}
        length = int(handler.headers.get("content-length", 0))
        self.body: dict[str, Any] = json.loads(handler.rfile.read(length) or b"{}")

    def json(self, body: Any, status: int = 200, **headers: str) -> None:
        self.raw(
            json.dumps(body).encode(), status, **{"Content-Type": "application/json"}, **headers
        )

    def raw(self, body: bytes, status: int = 200, **headers: str) -> None:
        self._handler.send_response(status)
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.send_header("Content-Length", str(len(body)))
        self._handler.end_headers()
        self._handler.wfile.write(body)

    def drip(self, start: bytes) -> None:
        """Send the start, then a byte every 20 ms until the server stops or the client has gone."""
        self._handler.wfile.write(start)
        while not self._stop.wait(0.02):
            self._handler.wfile.write(b"x")

    def endless(self) -> None:
        """Send a body without an end, in chunks of a megabyte."""
        self._handler.wfile.write(b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n" + b"x" * 2**20 + b"\r\n"
        while not self._stop.is_set():
            self._handler.wfile.write(chunk)

    def cut_off(self, body: bytes, promised: int) -> None:
        """Send less than what the header promises, and hang up."""
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {promised}\r\n\r\n"
        self._handler.wfile.write(head.encode() + body)

    def reset(self) -> None:
        """Break the connection with a reset."""
        linger = struct.pack("ii", 1, 0)
        self._handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._handler.connection.shutdown(socket.SHUT_RD)
        self._handler.connection.close()

    def silence(self) -> None:
        """Say nothing until the server stops."""
        self._stop.wait()


class Server(ThreadingHTTPServer):
    """Answers each request by a script, and keeps them."""

    daemon_threads = True
    request_queue_size = 64
    """Connections that wait to be accepted: with fewer a burst of calls is reset."""

    def __init__(self, script: Script) -> None:
        self.calls: list[Call] = []
        self.stop = threading.Event()
        self._guard = threading.Lock()

        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                with server._guard:
                    call = Call(self, len(server.calls) + 1, server.stop)
                    server.calls.append(call)
                script(call)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what many tests are about."""


@contextmanager
def serving(script: Script) -> Iterator[Server]:
    server = Server(script)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
