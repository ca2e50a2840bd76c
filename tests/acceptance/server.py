"""Starts blazr on a free port and runs a client against it: `python server.py BLAZR CLIENT [ARGUMENT …]`.

The client finds the address in SERVER_URL, and in BLAZR the program, of which it may start others with `serve`. Its exit
code is this program's, unless blazr does not end cleanly.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOADING_SECONDS = 30


def wait_until_ready(url: str) -> None:
    for _ in range(LOADING_SECONDS * 20):
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except urllib.error.URLError:
            time.sleep(0.05)
    raise SystemExit(f"{url}/health is not ready after {LOADING_SECONDS} s")


def address(server: subprocess.Popen, log: Path) -> str:
    while server.poll() is None:
        listening = re.search(r"listening on (http://\S+?),", log.read_text())
        if listening:
            return listening[1]
        time.sleep(0.05)
    raise SystemExit(log.read_text())


@contextmanager
def serve(blazr: str, *flags: str) -> Iterator[str]:
    """The address of a blazr that is ready, and that must end cleanly when it is left."""
    with tempfile.TemporaryDirectory() as place:
        log = Path(place, "log")
        with log.open("w") as file:
            server = subprocess.Popen([blazr, "serve", "--port", "0", *flags], stderr=file)
        try:
            url = address(server, log)
            wait_until_ready(url)
            yield url
        finally:
            server.send_signal(signal.SIGTERM)
            ended = server.wait(60)
    if ended:
        raise SystemExit(f"blazr {' '.join(flags)} ended with {ended}")


def main() -> None:
    blazr, *client = sys.argv[1:]
    # Exact: log-probabilities are held to the float64 reference.
    with serve(blazr, "--max-queue", "4", "--precision", "exact") as url:
        code = subprocess.run(client, env={**os.environ, "BLAZR": blazr, "SERVER_URL": url}).returncode
    sys.exit(code)


if __name__ == "__main__":
    main()
