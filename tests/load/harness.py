"""What the suites share: a running blazr and what /proc says about it, HTTP over raw sockets, a prober of its health,
and a report."""

import argparse
import json
import math
import multiprocessing
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection as Pipe
from types import TracebackType
from typing import NoReturn

Address = tuple[str, int]

START_SECONDS = 30
STOP_SECONDS = 60
POLL_SECONDS = 0.0005

# Threads that read prompts end when they have had no work for 10 s.
REST_SECONDS = 11
REST_LOOKS = 100

PROBE_EVERY_SECONDS = 0.01
PROBE_TIMEOUT_SECONDS = 5.0

# The allocator keeps some pages or others: at rest, after two hours of mixed load and between, it had 73 to 93 MiB, up and
# down. 10,000 hang-ups left from 2 MiB less to 10 MiB more than before, and 30,000 no more than 10,000.
MOST_GROWTH_KIB = 24 * 1024


@dataclass(frozen=True)
class Footprint:
    """What a process holds."""

    rss_kib: int
    fds: int
    threads: int

    def __str__(self) -> str:
        return f"{self.rss_kib / 1024:.1f} MiB, {self.fds} fds, {self.threads} threads"


class Server:
    """A blazr on a free port, which is ended with the `with` block. Its log is read from a file."""

    def __init__(self, blazr: str, *flags: str) -> None:
        self._log = tempfile.NamedTemporaryFile("r", prefix="blazr-load-", suffix=".log")
        with open(self._log.name, "w") as log:
            self.process = subprocess.Popen([blazr, "serve", "--port", "0", *flags], stderr=log)
        self.address = self._wait_for_address()
        wait_for("the server is ready", lambda: ask(self.address, get("/health")).status == 200, START_SECONDS)

    def _wait_for_address(self) -> Address:
        def listening() -> re.Match[str] | None:
            return re.search(r"listening on http://([^:]+):(\d+),", self.log())

        wait_for("the server listens", lambda: listening() or self.process.poll() is not None, START_SECONDS)
        found = listening()
        if found is None:
            raise SystemExit(f"the server has not started: {self.log()}")
        return found[1], int(found[2])

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if kind else signal.SIGTERM)
            self.process.wait(STOP_SECONDS)
        self._log.close()

    def log(self) -> str:
        with open(self._log.name) as log:
            return log.read()

    def footprint(self) -> Footprint:
        with open(f"/proc/{self.process.pid}/status") as file:
            status = dict(line.split(":", 1) for line in file)
        fds = len(os.listdir(f"/proc/{self.process.pid}/fd"))
        return Footprint(int(status["VmRSS"].split()[0]), fds, int(status["Threads"]))

    def footprint_at_rest(self) -> Footprint:
        """After a rest; of the memory the smallest of several looks after small requests, since the allocator gives pages
        back when it is used again."""
        smallest = self.footprint().rss_kib
        for _ in range(REST_LOOKS):
            ask(self.address, completion(prompt="Once", max_tokens=1))
            time.sleep(POLL_SECONDS * REST_LOOKS)
            smallest = min(smallest, self.footprint().rss_kib)
        time.sleep(REST_SECONDS)
        rested = self.footprint()
        return replace(rested, rss_kib=min(smallest, rested.rss_kib))

    def metrics(self) -> dict[str, float]:
        """The value of every series, by its name with labels; 0 of those that have not begun."""
        return series(ask(self.address, get("/metrics")).body.decode())


def series(exposition: str) -> dict[str, float]:
    lines = (line.rsplit(" ", 1) for line in exposition.splitlines() if line and not line.startswith("#"))
    return defaultdict(float, {name: float(value) for name, value in lines})


def wait_for(what: str, holds: Callable[[], object], seconds: float) -> float:
    """Waits until it holds; how many seconds that took."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            raise SystemExit(f"expected that {what} within {seconds:g} s, it does not hold")
        time.sleep(POLL_SECONDS)
    return time.monotonic() - began


# --------------------------------------------------------------------------- HTTP


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict:
        return json.loads(self.body)

    def code(self) -> str | None:
        """What kind of error it is."""
        return self.json()["error"]["code"]

    def events(self) -> list[str]:
        """The data of each server-sent event."""
        events = self.body.decode().split("\n\n")
        return [event.removeprefix("data: ") for event in events if event.startswith("data: ")]


class Connection:
    """One connection to a server."""

    def __init__(self, address: Address, timeout: float = 60) -> None:
        self.socket = socket.create_connection(address, timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""

    def send(self, request: bytes) -> "Connection":
        self.socket.sendall(request)
        return self

    def answer(self) -> Answer:
        """The next answer. Raises ConnectionError where the connection ends before it does."""
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}
        if headers.get("transfer-encoding") == "chunked":
            body = self._chunks()
        else:
            body = self._exactly(int(headers.get("content-length", "0")))
        return Answer(int(lines[0].split()[1]), headers, body)

    def piece(self) -> bytes:
        """What comes next of an answer; nothing at the end of the connection."""
        piece, self._unread = self._unread or self.socket.recv(65536), b""
        return piece

    def close(self, is_reset: bool = False) -> None:
        """Hangs up, in the usual way or by a reset."""
        if is_reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _chunks(self) -> bytes:
        chunks = []
        while size := int(self._until(b"\r\n"), 16):
            chunks.append(self._exactly(size))
            self._until(b"\r\n")
        self._until(b"\r\n")
        return b"".join(chunks)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._unread:
            self._more()
        found, _, self._unread = self._unread.partition(mark)
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._unread) < size:
            self._more()
        found, self._unread = self._unread[:size], self._unread[size:]
        return found

    def _more(self) -> None:
        more = self.socket.recv(65536)
        if not more:
            raise ConnectionError(f"the connection ended in an answer, behind {self._unread[:200]!r}")
        self._unread += more


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: blazr\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: blazr\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def completion(**fields: object) -> bytes:
    return post("/v1/completions", json.dumps(fields).encode())


def endless(is_streamed: bool, **fields: object) -> bytes:
    """A request that runs for seconds unless it is given up."""
    return completion(**{"prompt": [5], "max_tokens": 4000, "ignore_eos": True, "stream": is_streamed, **fields})


def ask(address: Address, request: bytes, timeout: float = 60) -> Answer:
    """The answer to one request on a connection of its own."""
    connection = Connection(address, timeout)
    try:
        return connection.send(request).answer()
    finally:
        connection.close()


# --------------------------------------------------------------------------- health


class Prober:
    """Asks for /health every 10 ms, each time on a fresh connection, while its `with` block runs. It is a process of
    its own, with priority over all others where the system lets it, so that what it waits for is the server."""

    def __init__(self, address: Address) -> None:
        self._stop = multiprocessing.Event()
        self._results, results = multiprocessing.Pipe(duplex=False)
        self._process = multiprocessing.Process(target=_probe, args=(address, self._stop, results))
        self.seconds: list[float] = []

    def __enter__(self) -> "Prober":
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.seconds = sorted(self._results.recv())
        self._process.join()

    def milliseconds(self, share: float) -> float:
        """The time within which this share of the probes was answered; infinite where they were not."""
        return 1000 * quantile(self.seconds, share)


def _probe(address: Address, stop: multiprocessing.Event, results: Pipe) -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        pass
    seconds = []
    while not stop.wait(PROBE_EVERY_SECONDS):
        began = time.monotonic()
        try:
            is_well = ask(address, get("/health"), PROBE_TIMEOUT_SECONDS).status == 200
        except OSError:
            is_well = False
        seconds.append(time.monotonic() - began if is_well else math.inf)
    results.send(seconds)


def quantile(ordered: list[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


# --------------------------------------------------------------------------- report


class Report:
    """Prints a line for each thing that is measured, and at the end how many were as expected."""

    def __init__(self) -> None:
        self._passed = 0
        self._failed = 0

    def check(self, what: str, found: object, holds: bool, expected: object) -> None:
        self._passed += holds
        self._failed += not holds
        print(f"{what}: {found} ... {'ok' if holds else f'FAILED, expected {expected}'}", flush=True)

    def equal(self, what: str, found: object, expected: object) -> None:
        self.check(what, found, found == expected, expected)

    def growth(self, before: Footprint, after: Footprint) -> None:
        """Memory, files and threads are back to where they were."""
        grown = after.rss_kib - before.rss_kib
        found = f"{grown:+} KiB ({before} -> {after})"
        self.check("RSS growth", found, grown < MOST_GROWTH_KIB, f"less than {MOST_GROWTH_KIB} KiB")
        self.equal("file descriptors", after.fds, before.fds)
        self.equal("threads", after.threads, before.threads)

    def end(self) -> NoReturn:
        print(f"{self._passed} passed, {self._failed} failed", flush=True)
        sys.exit(self._failed > 0)


def arguments(description: str | None, **defaults: int) -> argparse.Namespace:
    """The program to run, and one option for each default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("blazr", help="the program")
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    return parser.parse_args()
