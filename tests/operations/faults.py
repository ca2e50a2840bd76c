"""What goes wrong around a server, made to happen to the real program, one thing after the other: what it says, what
its clients see, and how it ends or goes on.

A disk that fills up needs the right to mount, a bound on memory that to make control groups, and clocks that jump need
libfaketime (Debian's package faketime): where that is missing, the fault is left out, which is said. What can only go
wrong inside is asked of a debug build, where one is named, by its variable FAULT. `--only NAME` runs those whose name
has it.
"""

import argparse
import json
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1] / "load"))
from harness import Address, Answer, Connection, Report, Server, ask, completion, endless, get, wait_for  # noqa: E402

NANO = Path(__file__).parents[2] / "src" / "nano" / "model"
WEIGHTS = "model.safetensors"

# Of a machine that is busy with something else.
PATIENCE_SECONDS = 300


def greedy(max_tokens: int = 200, **fields: object) -> bytes:
    return completion(prompt="Once upon a time", max_tokens=max_tokens, temperature=0, ignore_eos=True, **fields)


def text(address: Address) -> str:
    return ask(address, greedy(), PATIENCE_SECONDS).json()["choices"][0]["text"]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    said: str

    def last(self) -> str:
        """The last line on standard error, which is the message of a failure."""
        return self.said.strip().splitlines()[-1] if self.said.strip() else ""


def run(command: list[str | Path], **environment: str) -> Ended:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS,
                          env={**os.environ, **environment})  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr)


def check_failure(report: Report, what: str, ended: Ended, *words: str) -> None:
    """Exit code 1, and one message that has all of these."""
    message = ended.last()
    holds = ended.code == 1 and message.startswith("error: ") and all(re.search(word, message) for word in words)
    report.check(what, f"exit code {ended.code}, {message!r}", holds, f"exit code 1 and error: … {words}")


def status(address: Address, path: str = "/health") -> str:
    try:
        answer = ask(address, get(path), PATIENCE_SECONDS)
        return f"{answer.status} {answer.json()['status']}"
    except OSError:
        return "no connection"


def ending(address: Address, request: bytes) -> str:
    """How a request ends for its client."""
    try:
        answer = ask(address, request, PATIENCE_SECONDS)
    except OSError:
        return "no answer"
    if answer.status != 200:
        return f"{answer.status} {answer.code()}"
    events = answer.events()
    if not events:
        return "200"
    *_, last, done = events
    return f"{json.loads(last).get('error', {}).get('code')}, {done}"


@contextmanager
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="blazr-faults-") as path:
        yield Path(path)


# --------------------------------------------------------------------------- addresses


def port_in_use(report: Report, blazr: str) -> None:
    with Server(blazr) as server:
        host, port = server.address
        for flag, others in (("--port", []), ("--metrics-port", ["--port", "0"])):
            ended = run([blazr, "serve", flag, str(port), *others])
            check_failure(report, f"{flag} in use", ended, f"{host}:{port}", "in use")
        report.equal("the one that has the port", status(server.address), "200 ok")


def killed_and_restarted(report: Report, blazr: str) -> None:
    """SIGKILL while clients are served: they see their connections break, and the port can be had again at once."""
    with Server(blazr) as server, ThreadPoolExecutor(4) as clients:
        endings = [clients.submit(ending, server.address, endless(i % 2 == 0)) for i in range(4)]
        wait_for("three wait", lambda: server.metrics()["blazr_queue_requests"] == 3, PATIENCE_SECONDS)
        server.process.kill()
        server.process.wait()
        command = [blazr, "serve", "--port", str(server.address[1])]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as again:
            is_ready = lambda: status(server.address) == "200 ok" or again.poll() is not None  # noqa: E731
            seconds = wait_for("the next one serves or has ended", is_ready, PATIENCE_SECONDS)
            report.equal("clients of one that is killed", Counter(one.result() for one in endings), {"no answer": 4})
            report.equal("the next one on the same port", status(server.address), "200 ok")
            print(f"it was ready after {1000 * seconds:.0f} ms")
            again.terminate()


# --------------------------------------------------------------------------- a disk that is full

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = "tiny/nano"
ROOM_BYTES = 4 << 20


class Hub(ThreadingHTTPServer):
    """One that has nano's files as those of a model, as the Hugging Face Hub has."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files = {path.name: path.read_bytes() for path in NANO.iterdir()}
        self.ranges: list[str] = []

    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    """A list of files, and each from where it is asked for."""

    server: Hub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == f"/api/models/{MODEL}/revision/main":
            siblings = [{"rfilename": name, "size": len(data)} for name, data in self.server.files.items()]
            self.give(json.dumps({"id": MODEL, "sha": COMMIT, "siblings": siblings}).encode(), "list")
        else:
            name = path.removeprefix(f"/{MODEL}/resolve/{COMMIT}/")
            self.give(self.server.files[name], name)

    def give(self, data: bytes, name: str) -> None:
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").rstrip("-") or "0")
        if asked:
            self.server.ranges.append(asked)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"hash-of-{name}"')
        self.end_headers()
        with suppress(ConnectionError):  # the other side may have no room for more
            self.wfile.write(data[start:])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def small_disk() -> Iterator[Path | None]:
    """A disk of few bytes; none where there is no right to mount one."""
    with directory() as path:
        mounted = run(["mount", "-t", "tmpfs", "-o", f"size={ROOM_BYTES}", "none", path])
        try:
            yield path if mounted.code == 0 else None
        finally:
            if mounted.code == 0:
                run(["umount", path])


def full_disk(report: Report, blazr: str) -> None:
    with small_disk() as disk, hub() as server:
        if disk is None:
            return print("a full disk: left out, there is no right to mount one")
        environment = {"HF_ENDPOINT": server.url(), "HF_HOME": str(disk)}
        check_failure(report, "a disk that fills up while pulling", run([blazr, "pull", MODEL], **environment),
                      r"\.incomplete: ", "No space left on device", "make room")  # fmt: skip
        [part] = (disk / "hub").rglob("*.incomplete")
        kept = part.stat().st_size
        report.check("kept of the weights", kept, kept > ROOM_BYTES // 2, f"more than {ROOM_BYTES // 2}")
        run(["mount", "-o", f"remount,size={10 * ROOM_BYTES}", disk])
        again = run([blazr, "pull", MODEL], **environment)
        report.equal("pulling once there is room", (again.code, server.ranges), (0, [f"bytes={kept}-"]))
        pulled = (Path(again.out.strip()) / WEIGHTS).read_bytes()
        report.equal("the weights are the Hub's", pulled == server.files[WEIGHTS], True)


# --------------------------------------------------------------------------- a model file that changes


@dataclass(frozen=True)
class Shape:
    """A model of plain attention and a wide MLP, all of whose weights are 0 and take no room on the disk."""

    layers: int
    hidden: int
    intermediate: int

    def tensors(self) -> dict[str, list[int]]:
        hidden, vocab = self.hidden, json.loads((NANO / "config.json").read_text())["vocab_size"]
        shapes = {"embed_tokens.weight": [vocab, hidden], "norm.weight": [hidden]}
        for layer in range(self.layers):
            norms = {f"{name}.weight": [hidden] for name in ("input_layernorm", "post_attention_layernorm")}
            heads = {f"self_attn.{name}_proj.weight": [hidden, hidden] for name in "qkvo"}
            wide = {f"mlp.{name}_proj.weight": [self.intermediate, hidden] for name in ("gate", "up")}
            parts = {**norms, **heads, **wide, "mlp.down_proj.weight": [hidden, self.intermediate]}
            shapes |= {f"layers.{layer}.{name}": shape for name, shape in parts.items()}
        return shapes

    def write(self, place: Path) -> int:
        """How many bytes the weights have."""
        header, end = {}, 0
        for name, shape in self.tensors().items():
            start, end = end, end + 2 * shape[0] * (shape[1] if shape[1:] else 1)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
        head = json.dumps(header).encode()
        with open(place / WEIGHTS, "wb") as file:
            file.write(struct.pack("<Q", len(head)) + head)
            file.truncate(file.tell() + end)
        config = {"hidden_size": self.hidden, "num_layers": self.layers, "num_attention_heads": self.hidden // 64}
        (place / "config.json").write_text(json.dumps(config))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(NANO / name, place)
        return end


# 400 MB, so that there is time to change it while it is read.
LARGE = Shape(layers=4, hidden=1024, intermediate=16384)
ATTEMPTS = 5


def changed_when_loaded(report: Report, blazr: str) -> None:
    """Once a model serves, its file is nobody's business any more."""
    with directory() as place:
        shutil.copytree(NANO, place, dirs_exist_ok=True)
        weights = place / WEIGHTS
        with Server(blazr, "--model", str(place)) as server:
            right = text(server.address)
            maps = Path(f"/proc/{server.process.pid}/maps").read_text()
            report.equal("the file is mapped while its model serves", str(weights) in maps, False)
            changes: dict[str, Callable[[], object]] = {
                "overwritten": lambda: weights.write_bytes(b"\xff" * (NANO / WEIGHTS).stat().st_size),
                "truncated": lambda: os.truncate(weights, 100),
                "removed": lambda: weights.unlink(),
            }
            for change, make in changes.items():
                make()
                report.equal(f"the same text, the file being {change}", text(server.address) == right, True)


def changed_while_loading(report: Report, blazr: str) -> None:
    """A file that another program writes in place while it is read. What was read can't be told from what was meant."""
    changes: dict[str, Callable[[Path], object]] = {
        "truncated": lambda file: os.truncate(file, file.stat().st_size // 100),
        "overwritten": overwrite,
    }
    for change, make in changes.items():
        with directory() as place:
            LARGE.write(place)
            ended = ending_of(held_while_loading(blazr, place), partial(make, place / WEIGHTS))
        what = f"a file that is {change} while it is loaded"
        # Where it was stopped within a tensor whose pages are gone then.
        if change == "truncated" and ended.code == -signal.SIGBUS:
            report.check(what, "SIGBUS", True, "SIGBUS")
        else:
            check_failure(report, what, ended, WEIGHTS, "chang")


def overwrite(file: Path) -> None:
    with open(file, "r+b") as writing:
        writing.seek(file.stat().st_size // 2)
        writing.write(b"\x3f" * (1 << 20))


@dataclass(frozen=True)
class Loading:
    """A server and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def has_begun(self) -> bool:
        return ": loading " in self.log.read_text() or self.is_over()

    def is_over(self) -> bool:
        return self.process.poll() is not None or " serving " in self.log.read_text()

    def end(self) -> Ended:
        self.process.terminate()
        return Ended(self.process.wait(PATIENCE_SECONDS), "", self.log.read_text())


def held_while_loading(blazr: str, model: Path) -> Loading:
    """A server that was stopped after the header of its weights was read and before all of them were."""
    log = model / "log"
    for _ in range(ATTEMPTS):
        with open(log, "w") as writing:
            process = subprocess.Popen([blazr, "serve", "--port", "0", "--cpu", "--model", model], stderr=writing)
        loading = Loading(process, log)
        wait_for("weights are loading", loading.has_begun, PATIENCE_SECONDS)
        process.send_signal(signal.SIGSTOP)
        if not loading.is_over():
            return loading
        process.kill()
        process.wait()
    raise SystemExit(f"expected to catch the server loading in one of {ATTEMPTS} attempts")


def ending_of(loading: Loading, change: Callable[[], object]) -> Ended:
    """How it ends once a change is made and it goes on, or is told to if it serves."""
    try:
        change()
        loading.process.send_signal(signal.SIGCONT)
        wait_for("it ends or serves", loading.is_over, PATIENCE_SECONDS)
    finally:
        ended = loading.end()
    return ended


# --------------------------------------------------------------------------- clocks

FAKETIME = "libfaketime.so.1"
JUMPS_SECONDS = {"an hour ahead": 3600, "a day back": -86400, "ten years ahead": 10 * 365 * 86400}
# The jump and both readings of the clock are not one moment.
SAME_SECONDS = 60


def jumping_clock(report: Report, blazr: str) -> None:
    """The wall clock is set while a stream is under way: what is counted in seconds goes on as before. (The clock that
    those are taken from can't be set.)"""
    library = next((path for path in Path("/usr/lib").glob(f"*/faketime/{FAKETIME}")), None)
    if library is None:
        return print("clocks that jump: left out, there is no libfaketime")
    with directory() as place:
        clock = place / "clock"
        clock.write_text("+0")
        environment = {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
                       "FAKETIME_DONT_FAKE_MONOTONIC": "1"}  # fmt: skip
        with patch.dict(os.environ, environment):
            server = Server(blazr, "--request-timeout", str(PATIENCE_SECONDS), "--queue-timeout", str(PATIENCE_SECONDS))
        with server:
            right = stream(server.address)
            for jump, seconds in JUMPS_SECONDS.items():
                disturbed = stream(server.address, partial(clock.write_text, f"{seconds:+}"))
                report.equal(f"a clock set {jump}: the stream is the same", disturbed == right, True)
                answer = ask(server.address, greedy(5), PATIENCE_SECONDS)
                off = answer.json()["created"] - time.time() - seconds
                report.check(f"a clock set {jump}: created", f"{off:+.1f} s from the clock", abs(off) < SAME_SECONDS,
                             f"at most {SAME_SECONDS} s")  # fmt: skip
                off = logged_at(server.log()) - time.time() - seconds
                report.check(f"a clock set {jump}: the log", f"{off:+.1f} s from the clock", abs(off) < SAME_SECONDS,
                             f"at most {SAME_SECONDS} s")  # fmt: skip
            found = server.metrics()
            longest = found["blazr_request_time_seconds_sum"] / found["blazr_request_time_seconds_count"]
            report.check("a request's mean time over all jumps", f"{longest:.2f} s", longest < PATIENCE_SECONDS,
                         f"below {PATIENCE_SECONDS} s")  # fmt: skip
            failed = {name: count for name, count in found.items() if count and name.startswith("blazr_failed_total")}
            report.equal("failed", failed, {})


def logged_at(log: str) -> float:
    return datetime.fromisoformat(log.strip().splitlines()[-1].split()[0]).timestamp()


def stream(address: Address, disturb: Callable[[], object] = lambda: None) -> list[str]:
    """The texts and reasons of a stream that is disturbed behind its first piece."""
    connection = Connection(address, PATIENCE_SECONDS)
    request = greedy(2000, stream=True)
    connection.send(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
    received = connection.piece()
    disturb()
    while piece := connection.piece():
        received += piece
    connection.close()
    events = re.findall(rb"data: (\{.*\})", received)
    return [str(choice) for event in events for choice in json.loads(event)["choices"]]


# --------------------------------------------------------------------------- file descriptors

MOST_FILES = 40
CROWD = 200
FULL_SECONDS = 5.0
# One for each pause between two attempts (50 ms), and as many again of connections that were taken and then dropped.
MOST_LINES_A_SECOND = 40


def no_file_descriptors(report: Report, blazr: str) -> None:
    """More connections than there are descriptors for: those that were there are served on, and so is whoever comes
    when there is room again."""
    with Server(blazr) as server, ThreadPoolExecutor(1) as client:
        pid, idle = server.process.pid, Connection(server.address, PATIENCE_SECONDS)
        idle.send(get("/health")).answer()
        running = client.submit(ask, server.address, endless(True), PATIENCE_SECONDS)
        wait_for("one is served", lambda: server.metrics()["blazr_running_requests"] == 1, PATIENCE_SECONDS)
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (MOST_FILES, hard))
        before, began = len(server.log().splitlines()), time.monotonic()
        crowd = [Connection(server.address, PATIENCE_SECONDS) for _ in range(CROWD)]
        churn(server.address, began + FULL_SECONDS)
        seconds = time.monotonic() - began
        said = [line for line in server.log().splitlines()[before:] if "WARN" in line]
        kinds = Counter(line.split(": ", 1)[1] for line in said)
        rate, expected = len(said) / seconds, f"something, and at most {MOST_LINES_A_SECOND} lines/s"
        is_bounded = 0 < rate <= MOST_LINES_A_SECOND
        report.check("said of it", f"{rate:.1f} lines/s {dict(kinds)}", is_bounded, expected)
        fds = server.footprint().fds
        report.check("open descriptors", fds, fds <= MOST_FILES, f"at most {MOST_FILES}")
        report.equal("one that was connected before", idle.send(get("/health")).answer().status, 200)
        answer: Answer = running.result()
        report.equal("one that was served before", (answer.status, answer.events()[-1]), (200, "[DONE]"))
        print(f"of {CROWD} others: {dict(Counter(fate(connection) for connection in crowd))}")
        answered = wait_for("newcomers are served again", lambda: status(server.address) == "200 ok", PATIENCE_SECONDS)
        print(f"newcomers are served {1000 * answered:.0f} ms after the others have gone")
        idle.close()
        report.equal("what is asked for then", len(text(server.address)) > 0, True)


def fate(connection: Connection) -> str:
    """What becomes of one of the crowd, when those before it have gone."""
    try:
        return str(connection.send(get("/health")).answer().status)
    except OSError as error:
        return type(error).__name__
    finally:
        connection.close()


def churn(address: Address, end: float) -> None:
    """Connections that come and go, as of a client that tries again and again."""
    while time.monotonic() < end:
        try:
            connection = socket.create_connection(address, 1)
        except OSError:
            continue
        connection.close()
        time.sleep(0.001)


# --------------------------------------------------------------------------- memory

# What it gets if it asks the system in earnest.
SAFE_BYTES = 2 << 30
ARITHMETIC = (r"\d+ MB of weights \+ ", r"\d+ MB of state \+ ", r" = \d+ MB", r"there are \d+ MB")


def too_large(report: Report, blazr: str) -> None:
    """A model for half as much memory again as the machine has is refused before any of it is read."""
    shape = Shape(layers=1, hidden=4096, intermediate=65536)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with directory() as place:
        each = shape.write(place)
        size = Shape(3 * memory // 2 // each + 1, shape.hidden, shape.intermediate).write(place)
        print(f"a model of {size / 1e9:.1f} GB, on a machine of {memory / 1e9:.1f} GB")
        limited = ["prlimit", f"--data={SAFE_BYTES}", blazr]
        ended = run([*limited, "serve", "--port", "0", "--cpu", "--model", place])
        check_failure(report, "serving a model that is too large", ended, *ARITHMETIC)
        planned = run([blazr, "plan", "--model", place])
        holds = planned.code == 1 and all(re.search(word, planned.out) for word in ARITHMETIC)
        report.check("blazr plan", f"exit code {planned.code}\n{planned.out}{planned.said}", holds,
                     f"exit code 1 and {ARITHMETIC}")  # fmt: skip


# One of them is there where the system lets this user have control groups of his own.
GROUPS = {
    Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes",
    Path("/sys/fs/cgroup"): "memory.max",
}
BOUND_BYTES = 1_024_000_000  # whole pages
LIMIT = "blazr_memory_limit_bytes"


@contextmanager
def control_group() -> Iterator[Path | None]:
    """One that may have so much memory."""
    for root, bound in GROUPS.items():
        group = root / f"blazr-faults-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / bound).exists():
                (group / bound).write_text(str(BOUND_BYTES))
                yield group
                return
        finally:
            with suppress(OSError):
                group.rmdir()
    yield None


def bounded(report: Report, blazr: str) -> None:
    """What the group may have counts, not what the machine has."""
    with control_group() as group, directory() as place:
        if group is None:
            print("skipped: no control group can be made here")
            return
        inside = place / "inside"
        program = shlex.quote(str(Path(blazr).absolute()))
        inside.write_text(f'#!/bin/sh\necho $$ > {group}/cgroup.procs && exec {program} "$@"\n')
        inside.chmod(0o755)
        Shape(layers=12, hidden=2048, intermediate=8192).write(place)
        ended = run([inside, "serve", "--port", "0", "--cpu", "--model", place])
        check_failure(report, "serving a model that is too large for its group", ended,
                      f"{BOUND_BYTES // 10**6} MB .bound on the control group.")  # fmt: skip
        with Server(str(inside), "--cpu") as server:
            report.equal(LIMIT, server.metrics()[LIMIT], float(BOUND_BYTES))


# --------------------------------------------------------------------------- inside, in a debug build

WAITING = 3
STALL_SECONDS = 2
END_SECONDS = 30


@contextmanager
def faulty(debug_blazr: str, fault: str, *flags: str) -> Iterator[Server]:
    with patch.dict(os.environ, {"FAULT": fault}):
        server = Server(debug_blazr, *flags)
    with server:
        yield server


def panic(report: Report, debug_blazr: str) -> None:
    """It is the request's own, and the loop goes on."""
    with faulty(debug_blazr, "panic") as server:
        report.equal("a request on which the loop panics", ending(server.address, greedy(5)), "500 None")
        report.equal("the next one", ending(server.address, greedy(5)), "200")
        report.equal("counted", server.metrics()['blazr_failed_total{reason="panic"}'], 1)
        report.equal("health", status(server.address), "200 ok")


def death(report: Report, debug_blazr: str) -> None:
    """Whoever waits is told, and the process ends for its supervisor."""
    with faulty(debug_blazr, "death") as server:
        check_told(report, "a loop that dies", server, "503 shutting_down")
        check_end(report, "a loop that dies", server, "the inference loop has died")


def stall(report: Report, debug_blazr: str) -> None:
    """Health turns red, whoever waits is told, and the process ends for its supervisor."""
    with faulty(debug_blazr, "stall", "--stall-timeout", str(STALL_SECONDS)) as server:
        began, found = time.monotonic(), threading.Event()

        def watch() -> None:
            while server.process.poll() is None and not found.is_set():
                if status(server.address) == "503 stalled":
                    found.set()

        watcher = threading.Thread(target=watch)
        watcher.start()
        check_told(report, "a loop that stalls", server, "503 shutting_down")
        check_end(report, "a loop that stalls", server, "takes longer than --stall-timeout")
        watcher.join()
        report.equal("health was 503 stalled meanwhile", found.is_set(), True)
        seconds = time.monotonic() - began
        report.check("from the request to the end", f"{seconds:.1f} s", seconds < STALL_SECONDS + END_SECONDS,
                     f"less than {STALL_SECONDS + END_SECONDS} s")  # fmt: skip


def check_told(report: Report, what: str, server: Server, told: str) -> None:
    """All of some clients, streamed and whole, hear the same."""
    with ThreadPoolExecutor(1 + WAITING) as clients:
        endings = Counter(clients.map(lambda i: ending(server.address, endless(i % 2 == 0)), range(1 + WAITING)))
    report.equal(f"{what}: its clients", dict(endings), {told: 1 + WAITING})


def check_end(report: Report, what: str, server: Server, message: str) -> None:
    ended = Ended(server.process.wait(PATIENCE_SECONDS), "", server.log())
    check_failure(report, f"{what}: the end", ended, message)


# --------------------------------------------------------------------------- all of them

Fault = Callable[[Report, str], None]

FAULTS: list[Fault] = [
    port_in_use,
    killed_and_restarted,
    full_disk,
    changed_when_loaded,
    changed_while_loading,
    jumping_clock,
    no_file_descriptors,
    too_large,
    bounded,
]
INSIDE: list[Fault] = [panic, death, stall]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("blazr", help="the program")
    parser.add_argument("debug_blazr", nargs="?", help="a debug build of it, for what goes wrong inside")
    parser.add_argument("--only", default="", metavar="NAME", help="those whose name has this")
    options = parser.parse_args()
    report = Report()
    faults = [(fault, options.blazr) for fault in FAULTS]
    if options.debug_blazr:
        faults += [(fault, options.debug_blazr) for fault in INSIDE]
    for fault, blazr in faults:
        if options.only in fault.__name__:
            print(f"== {fault.__name__.replace('_', ' ')}", flush=True)
            fault(report, blazr)
    report.end()


if __name__ == "__main__":
    main()
