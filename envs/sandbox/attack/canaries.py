"""Servers on this machine that tell the secret to whoever reaches them, and count who did."""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections import Counter


class Canaries:
    """TCP and UDP on one port of 127.0.0.1, a UNIX socket with a path and one without.

    Consumes connections, produces the secret, waits in one thread, stops at `close`.
    """

    def __init__(self, secret: str, path: str, abstract: str) -> None:
        """Listen.

        Args:
            path: of the UNIX socket; anybody may connect.
            abstract: name of the other, without its leading zero byte.

        Raises:
            OSError: a name is taken.
        """
        self.touched: Counter[str] = Counter()
        """How often each was reached."""
        self._secret = secret.encode()
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []
        self._stop, self._stopped = os.pipe()
        try:
            self.port = self._listen_inet()
            self._listen("unix path", path)
            os.chmod(path, 0o777)
            self._listen("abstract unix", f"\0{abstract}")
        except BaseException:
            self._free()
            raise
        self._selector.register(self._stop, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._serve, name="canaries", daemon=True)
        self._thread.start()

    def _listen_inet(self) -> int:
        for _ in range(20):
            tcp = self._add("tcp", socket.socket())
            tcp.bind(("127.0.0.1", 0))
            port = int(tcp.getsockname()[1])
            udp = self._add("udp", socket.socket(type=socket.SOCK_DGRAM))
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:  # somebody has that number for UDP
                for taken in (tcp, udp):
                    self._selector.unregister(taken)
                    self._sockets.remove(taken)
                    taken.close()
                continue
            tcp.listen(64)
            return port
        raise OSError("no port is free for both TCP and UDP")

    def _listen(self, name: str, address: str) -> None:
        listening = self._add(name, socket.socket(socket.AF_UNIX))
        listening.bind(address)
        listening.listen(64)

    def _add(self, name: str, made: socket.socket) -> socket.socket:
        self._sockets.append(made)
        made.setblocking(False)
        self._selector.register(made, selectors.EVENT_READ, name)
        return made

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                self.touched[key.data] += 1
                canary = key.fileobj
                assert isinstance(canary, socket.socket)
                try:
                    self._answer(canary)
                except OSError:  # they hung up
                    continue

    def _answer(self, canary: socket.socket) -> None:
        if canary.type == socket.SOCK_DGRAM:
            _, sender = canary.recvfrom(4096)
            canary.sendto(self._secret, sender)
            return
        caller, _ = canary.accept()
        with caller:
            caller.settimeout(1.0)
            caller.sendall(self._secret)

    def close(self) -> None:
        """Stop answering. Twice is fine."""
        if self._stopped >= 0:
            os.write(self._stopped, b"x")
            self._thread.join()
            self._free()

    def _free(self) -> None:
        self._selector.close()
        for made in self._sockets:
            made.close()
        os.close(self._stop)
        os.close(self._stopped)
        self._stopped = -1
