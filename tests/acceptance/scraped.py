"""A real Prometheus scrapes a running blazr, whose address is in SERVER_URL: promtool finds nothing to say, and the
counters are the sum of what `usage` said. Needs `prometheus` and `promtool` on the PATH."""

import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

URL = os.environ["SERVER_URL"]
PATIENCE_SECONDS = 30
CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs: [{{job_name: blazr, static_configs: [{{targets: ["{target}"]}}]}}]
"""


def complete(**options: object) -> dict:
    body = json.dumps({"prompt": "Once upon a time", "max_tokens": 30, **options}).encode()
    request = urllib.request.Request(f"{URL}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)["usage"]


def check_text() -> None:
    with urllib.request.urlopen(f"{URL}/metrics") as response:
        text = response.read()
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert checked.returncode == 0 and not checked.stdout + checked.stderr, checked


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def value(prometheus: str, query: str) -> float | None:
    try:
        with urllib.request.urlopen(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}") as response:
            found = json.load(response)["data"]["result"]
    except urllib.error.URLError:
        return None
    return float(found[0]["value"][1]) if found else None


def wait_for(prometheus: str, query: str, expected: float) -> None:
    found = None
    for _ in range(PATIENCE_SECONDS * 5):
        found = value(prometheus, query)
        if found == expected:
            print(f"{query} = {expected:g} ... ok", flush=True)
            return
        time.sleep(0.2)
    raise SystemExit(f"{query}: expected {expected}, found {found}")


def main() -> None:
    usages = [complete(seed=seed) for seed in range(3)] + [complete(n=3), complete(prompt=["Mia", "Tom"], n=2)]
    check_text()
    total = {key: sum(usage[key] for usage in usages) for key in ("prompt_tokens", "completion_tokens")}
    with tempfile.TemporaryDirectory() as place:
        config = os.path.join(place, "prometheus.yml")
        with open(config, "w") as file:
            file.write(CONFIG.format(target=URL.removeprefix("http://")))
        address = f"127.0.0.1:{free_port()}"
        flags = [f"--config.file={config}", f"--storage.tsdb.path={place}/data", f"--web.listen-address={address}"]
        prometheus = subprocess.Popen(["prometheus", *flags], stderr=subprocess.DEVNULL)
        try:
            wait_for(f"http://{address}", "up", 1)
            wait_for(f"http://{address}", "sum(blazr_prompt_tokens_total)", total["prompt_tokens"])
            wait_for(f"http://{address}", "blazr_generation_tokens_total", total["completion_tokens"])
            wait_for(f"http://{address}", "sum(blazr_finished_total)", 3 + 3 + 4)
            wait_for(f"http://{address}", "blazr_request_time_seconds_count", 5)
        finally:
            prometheus.terminate()
            prometheus.wait()
    print("5 passed, 0 failed")


if __name__ == "__main__":
    main()
