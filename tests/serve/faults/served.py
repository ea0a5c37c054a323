"""A server in a process of its own, and plain sockets to misbehave with."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

STANDIN = Path(__file__).with_name("standin.py")


class Served:
    """A running server; use it as a context, which ends it."""

    def __init__(self, *command, **environ):
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environ},
        )
        self.log = []  # the lines of standard error
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        first = self.process.stdout.readline()
        if not first:
            self.process.wait(10)
            self._reader.join(60)
            raise RuntimeError("the server did not start: " + "\n".join(self.log))
        self.facts = json.loads(first)
        self.url = self.facts["url"]
        self.port = int(self.url.rpartition(":")[2])

    @classmethod
    def standin(cls, **asked):
        """Return the stand-in, with settings, patience and drain of the test's own."""
        return cls(STANDIN, json.dumps(asked))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.communicate()
        self._reader.join(60)

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line.rstrip("\n"))

    def lines(self, path=None):
        """Return the log's lines of JSON, of requests to one path if it is given."""
        found = [json.loads(line) for line in self.log if line.startswith("{")]
        return [line for line in found if path is None or line.get("path") == path]

    def logged(self, path, seconds=60):
        """Wait for a request's line and return it."""
        return until(lambda: self.lines(path), seconds)[-1]

    def get(self, path, **named):
        return httpx.get(f"{self.url}{path}", timeout=60, **named)

    def post(self, path, content=None, **named):
        return httpx.post(f"{self.url}{path}", json=content, timeout=60, **named)

    @contextlib.contextmanager
    def line(self, sent=b"", *, receive_bytes=None):
        """Give a plain connection, on which something was sent already."""
        with socket.socket() as raw:
            if receive_bytes is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            raw.settimeout(60)
            raw.connect(("127.0.0.1", self.port))
            raw.sendall(sent)
            yield raw

    def kill(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def ended(self, seconds=60):
        """Wait for the end, and return the exit code and what was printed after the first line."""
        code = self.process.wait(seconds)
        return code, self.process.stdout.read()

    def resident(self):
        """Return the memory that the process has, in bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no VmRSS")


def until(what, seconds=60):
    """Wait until a function returns something, and return that."""
    end = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > end:
            raise TimeoutError(f"nothing came of it in {seconds} s")
        time.sleep(0.01)
    return found


def request(path, body=b"", *headers, method="POST"):
    """Return a request as it is on the wire."""
    head = [
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


def whole(raw):
    """Read until the server closes the connection."""
    read = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := raw.recv(65536):
            read += piece
    return read


def answer(raw):
    """Read one answer that says how long it is."""
    read = b""
    while b"\r\n\r\n" not in read:
        read += raw.recv(65536)
    head, _, body = read.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += raw.recv(65536)
    return head + b"\r\n\r\n" + body


def status(read):
    """Return the status of an answer."""
    return int(read.split(b" ", 2)[1])
