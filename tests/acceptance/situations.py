"""Servers in which clients meet the errors that a blazr at rest doesn't give. BLAZR is the program."""

import http.client
import json
import os
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from server import serve

BLAZR = os.environ["BLAZR"]
KEY = "sk-acceptance"
LONG = {"prompt": "Once", "max_tokens": 4000, "ignore_eos": True, "n": 4, "stream": True}
PATIENCE_SECONDS = 10


@contextmanager
def locked() -> Iterator[str]:
    """The address of a server that asks for KEY."""
    with serve(BLAZR, "--api-key", KEY) as url:
        yield url


@contextmanager
def busy(*flags: str) -> Iterator[str]:
    """The address of a server that works on a long request, so that others have to wait."""
    with serve(BLAZR, *flags) as url:
        running = occupy(url, "blazr_running_requests")
        try:
            yield url
        finally:
            running.close()


@contextmanager
def full() -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of a server that works on one long request while another waits and no more may, and what ends both."""
    with serve(BLAZR, "--max-queue", "1") as url:
        requests = [occupy(url, "blazr_running_requests"), occupy(url, "blazr_queue_requests")]

        def clear() -> None:
            for request in requests:
                request.close()

        try:
            yield url, clear
        finally:
            clear()


@contextmanager
def impatient() -> Iterator[str]:
    """The address of a server that gives up what isn't done after a second."""
    with serve(BLAZR, "--request-timeout", "1") as url:
        yield url


def occupy(url: str, gauge: str) -> http.client.HTTPConnection:
    """Sends a long request and waits until the gauge counts it. It ends when the connection is closed."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    connection.request("POST", "/v1/completions", json.dumps(LONG), {"Content-Type": "application/json"})
    wait_for(url, gauge)
    return connection


def wait_for(url: str, gauge: str) -> None:
    for _ in range(PATIENCE_SECONDS * 50):
        with urllib.request.urlopen(f"{url}/metrics") as response:
            if re.search(rf"^{gauge} 1$", response.read().decode(), re.MULTILINE):
                return
        time.sleep(0.02)
    raise SystemExit(f"{gauge} is not 1 after {PATIENCE_SECONDS} s")
