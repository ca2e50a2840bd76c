"""The cache of the Hugging Face Hub is one: what blazr downloads huggingface_hub finds, and the other way round.

Both ask a server on loopback that serves a fixture as the Hub would: `hub_cache.py BLAZR`.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FIXTURE = Path(__file__).parent.parent / "families" / "llama"
MODEL = "tiny/llama"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {path.name: path.read_bytes() for path in FIXTURE.iterdir()}


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        path = self.path.split("?")[0]
        name = path.rsplit("/", 1)[-1]
        if path.startswith(f"/api/models/{MODEL}/tree/"):
            file = lambda name, data: {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            body = json.dumps([file(name, data) for name, data in FILES.items()]).encode()
            headers = {"Content-Type": "application/json"}
        elif path.startswith(f"/api/models/{MODEL}/revision/"):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in FILES.items()]
            body = json.dumps({"id": MODEL, "modelId": MODEL, "sha": COMMIT, "siblings": siblings}).encode()
            headers = {"Content-Type": "application/json"}
        elif path == f"/{MODEL}/resolve/{COMMIT}/{name}" and name in FILES:
            body = FILES[name]
            headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
        else:
            self.send_error(404)
            return
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def snapshot_download(environment, **options):
    """huggingface_hub reads its environment when it is imported: each call has a process of its own."""
    code = "import sys, json, huggingface_hub as h; print(h.snapshot_download(**json.loads(sys.argv[1])))"
    arguments = json.dumps({"repo_id": MODEL, **options})
    return subprocess.check_output([sys.executable, "-c", code, arguments], env=environment, text=True).strip()


def main(blazr):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for first in ("blazr", "huggingface_hub"):
        with tempfile.TemporaryDirectory() as home:
            online = {**os.environ, "HF_HOME": home, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
            offline = {**online, "HF_HUB_OFFLINE": "1"}
            pull = lambda environment: subprocess.check_output([blazr, "pull", MODEL], env=environment, text=True).strip()
            if first == "blazr":
                downloaded, found = pull(online), snapshot_download(offline)
            else:
                downloaded, found = snapshot_download(online, ignore_patterns=["expected.json"]), pull(offline)
            assert downloaded == found, (downloaded, found)
            names = sorted(path.name for path in Path(found).iterdir())
            assert names == sorted(set(FILES) - {"expected.json"}), names
            assert all((Path(found) / name).read_bytes() == FILES[name] for name in names)
            print(f"{first} downloaded {len(names)} files, the other found them")


main(sys.argv[1])
