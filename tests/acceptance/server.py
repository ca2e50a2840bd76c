"""Starts blazr on a free port and runs a client against it: `python server.py BLAZR CLIENT [ARGUMENT …]`.

The client finds the address in BLAZR_URL. Its exit code is this program's, unless blazr does not end cleanly.
"""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

LOADING_SECONDS = 30


def wait_until_ready(url: str) -> None:
    for _ in range(LOADING_SECONDS * 20):
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except urllib.error.URLError:
            time.sleep(0.05)
    raise SystemExit(f"{url}/health is not ready after {LOADING_SECONDS} s")


def main() -> None:
    blazr, *client = sys.argv[1:]
    log = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"blazr-acceptance-{os.getpid()}.log")
    with open(log, "w") as file:
        server = subprocess.Popen([blazr, "serve", "--port", "0", "--max-queue", "4"], stderr=file)
    try:
        listening = None
        while listening is None and server.poll() is None:
            time.sleep(0.05)
            listening = re.search(r"listening on (http://\S+?),", open(log).read())
        if listening is None:
            raise SystemExit(open(log).read())
        wait_until_ready(listening[1])
        code = subprocess.run(client, env={**os.environ, "BLAZR_URL": listening[1]}).returncode
    finally:
        server.send_signal(signal.SIGTERM)
        ended = server.wait(60)
        os.unlink(log)
    sys.exit(code or ended)


if __name__ == "__main__":
    main()
