"""What clients see of three instances behind nginx and behind HAProxy, as docker/nginx and docker/haproxy set them up,
when one is killed, is drained and restarted, hangs, or hangs and is ended by its supervisor.

No client fails where a repetition could have hidden it, which is as long as nothing of its answer had come. What had
begun to come is whole and the same as from any instance, or it breaks off so that its client can tell. Only addresses
are put into the configurations. `--seconds 1` is enough to see that; `--seconds 20` is for figures, and from 8 on the
throughput is held to a bound, which needs a machine that does nothing else. A debug build, which takes ten times as long
for each token, is asked for fewer: `--percent 10`.
"""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "load"))
from harness import Address, Connection, Report, arguments, ask, endless, get, quantile, series, wait_for  # noqa: E402

DOCKER = Path(__file__).parents[2] / "docker"
HOST = "127.0.0.1"
# Below those of net.ipv4.ip_local_port_range.
PORTS = range(20_000, 32_000)
EXAMPLE_ADDRESS = "*:8080"
EXAMPLE_INSTANCES = ["10.0.0.11:8080", "10.0.0.12:8080", "10.0.0.13:8080"]

MAX_QUEUE = 8
CLIENTS = 12
# More than three instances are given by HAProxy (8 each), so that some wait there.
CROWD = 30
BURST = 150
STREAMS = 5

START_SECONDS = 30
BUSY_SECONDS = 30
LOOK_SECONDS = 0.05
DRAIN_SECONDS = 120
TIMEOUT_SECONDS = 60
# A machine that is busy with other things may take one by itself.
CANCEL_SECONDS = 5
# Of a machine that is busy with other things; a generation takes longer there.
QUICK_SECONDS = 10
# HAProxy takes 4.5 s at most to notice it.
LEAST_HANG_SECONDS = 6

# Of the throughput with all instances well; up to half of the clients wait for one that hangs. Few answers are no measure.
LEAST_SHARE = 0.25
LEAST_SECONDS = 8
# One request is worked on at a time, and the end of the one before may be on its way.
MOST_CUT = 2


# --------------------------------------------------------------------------- what clients ask for, and what they get


@dataclass(frozen=True)
class Asked:
    """What one client asks for. Its text is the same whenever it is asked for."""

    tokens: int
    is_streamed: bool = False
    padding: int = 0

    def body(self) -> bytes:
        streamed = {"stream": True, "stream_options": {"include_usage": True}} if self.is_streamed else {}
        fields = {"prompt": "Once upon a time", "max_tokens": self.tokens, "temperature": 0, "ignore_eos": True}
        return json.dumps(fields | streamed).encode() + b" " * self.padding


class Mix:
    """What is asked for, in so many of a hundred of the usual tokens."""

    def __init__(self, percent: int) -> None:
        def asked(tokens: int, is_streamed: bool = False, padding: int = 0) -> Asked:
            return Asked(max(1, tokens * percent // 100), is_streamed, padding)

        self.short = asked(40, True)
        # Short and long, streamed and whole, and one that takes more than the usual buffer of a balancer.
        self.kinds = [self.short, asked(400, True), asked(100), asked(40, padding=100_000)]
        self.large = asked(40, padding=2_000_000)
        # It takes some seconds.
        self.long = asked(4000, True)

    def all(self) -> list[Asked]:
        return [*self.kinds, self.large, self.long]


@dataclass(frozen=True)
class Received:
    """What came of an answer."""

    text: str
    tokens: int | None
    finish_reason: str | None
    has_ended: bool
    has_error: bool


def received(asked: Asked, body: bytes) -> Received:
    return received_events(body.decode()) if asked.is_streamed else received_whole(body)


def received_whole(body: bytes) -> Received:
    try:
        answer = json.loads(body)
    except ValueError:
        return Received("", None, None, False, False)
    choice = answer["choices"][0]
    return Received(choice["text"], answer["usage"]["completion_tokens"], choice["finish_reason"], True, False)


def received_events(body: str) -> Received:
    """Of the events that have come in full."""
    events = [event.removeprefix("data: ") for event in body.split("\n\n")[:-1] if event.startswith("data: ")]
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    choices = [choice for chunk in chunks for choice in chunk.get("choices", [])]
    reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    usages = [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk.get("usage")]
    return Received(
        text="".join(choice["text"] for choice in choices),
        tokens=usages[-1] if usages else None,
        finish_reason=reasons[-1] if reasons else None,
        has_ended=events[-1:] == ["[DONE]"],
        has_error=any("error" in chunk for chunk in chunks),
    )


@dataclass(frozen=True)
class Exchange:
    """What became of one request. Its ending is one of

    - whole: all of the answer has come, and it is the right one
    - cut: what has come is the beginning of the right answer, and its client was told or the connection was closed
    - refused: there was no room, and the client was told when to come back
    - failed: nothing of an answer has come, which a repetition could have hidden
    - wrong: another text, or one that seems to be complete and is not
    """

    asked: Asked
    ending: str
    detail: str
    tokens: int
    began: float
    first: float
    ended: float

    def seconds(self) -> float:
        return self.ended - self.began


class Judge:
    """Knows the right answers."""

    def __init__(self, address: Address, mix: Mix) -> None:
        self.mix = mix
        self._texts: dict[Asked, str] = {}
        for asked in mix.all():
            response, body, _ = read(request(address, asked))
            assert response.status == 200, f"{response.status} {body!r}"
            self._texts[asked] = received(asked, body).text

    def ending(self, asked: Asked, response: HTTPResponse, body: bytes, broke: bool) -> tuple[str, str]:
        if response.status != 200:
            return refusal(response, body)
        got, right = received(asked, body), self._texts[asked]
        if not right.startswith(got.text):
            return "wrong", f"another text: {got.text!r}"
        if broke or got.has_error:
            return "cut", "an error event" if got.has_error else "a closed connection"
        is_whole = got.has_ended and (got.finish_reason, got.tokens, got.text) == ("length", asked.tokens, right)
        return ("whole", "") if is_whole else ("wrong", f"seems to be complete: {got}")

    def exchange(self, address: Address, asked: Asked) -> Exchange:
        began = time.monotonic()
        try:
            response = request(address, asked)
        except (OSError, HTTPException) as error:
            now = time.monotonic()
            return Exchange(asked, "failed", repr(error), 0, began, now, now)
        first = time.monotonic()
        response, body, broke = read(response)
        ending, detail = self.ending(asked, response, body, broke)
        tokens = asked.tokens if ending == "whole" else 0
        return Exchange(asked, ending, detail, tokens, began, first, time.monotonic())


def request(address: Address, asked: Asked) -> HTTPResponse:
    """An answer's headers, for one request on a connection of its own."""
    connection = HTTPConnection(*address, timeout=TIMEOUT_SECONDS)
    headers = {"Content-Type": "application/json", "Connection": "close"}
    connection.request("POST", "/v1/completions", asked.body(), headers)
    return connection.getresponse()


def read(response: HTTPResponse) -> tuple[HTTPResponse, bytes, bool]:
    """What comes of the body, and whether it breaks off."""
    pieces = []
    with response:
        try:
            while piece := response.read1():
                pieces.append(piece)
        except (OSError, HTTPException):
            return response, b"".join(pieces), True
    return response, b"".join(pieces), False


def refusal(response: HTTPResponse, body: bytes) -> tuple[str, str]:
    """One that tells an SDK when to come back; any other answer is a failure."""
    detail = f"{response.status} {body[:200].decode(errors='replace')}"
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError):
        return "failed", detail
    is_refused = response.status in (429, 503) and response.getheader("Retry-After", "").isdigit()
    return ("refused", message) if is_refused else ("failed", detail)


# --------------------------------------------------------------------------- the instances and who stands before them


class Instance:
    """A blazr that is started anew on the same port."""

    def __init__(self, blazr: str) -> None:
        self._blazr = blazr
        self.address = (HOST, free_port())
        self.start()

    def start(self) -> None:
        flags = ["--port", str(self.address[1]), "--max-queue", str(MAX_QUEUE), "--drain-timeout", str(DRAIN_SECONDS),
                 "--threads", "1", "--cpu"]  # fmt: skip
        environment = os.environ | {"RUST_LOG": "blazr=error"}
        self.process = subprocess.Popen([self._blazr, "serve", *flags], env=environment)
        wait_for("an instance is ready", self._is_ready, START_SECONDS)

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise SystemExit("an instance has not started")
        try:
            return ask(self.address, get("/health")).status == 200
        except OSError:
            return False

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(DRAIN_SECONDS + START_SECONDS)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def metrics(self) -> dict[str, float]:
        return series(ask(self.address, get("/metrics")).body.decode())

    def total(self, counter: str) -> float:
        return sum(value for name, value in self.metrics().items() if name.startswith(counter))

    def n_inside(self) -> float:
        """Requests that are served or wait."""
        metrics = self.metrics()
        return metrics["blazr_running_requests"] + metrics["blazr_queue_requests"]


def free_port() -> int:
    """One that nobody is given for a connection while an instance is down."""
    while True:
        port = random.choice(PORTS)
        try:
            with socket.create_server((HOST, port)):
                return port
        except OSError:
            pass


@dataclass(frozen=True)
class Kind:
    """One kind of balancer."""

    name: str
    example: Path
    command: Callable[[Path], list[str]]
    # How its log tells of a request that was sent to more than one instance.
    repeated: re.Pattern[str]
    # Whether it asks another one in place of one that says nothing.
    notices_hangs: bool


def nginx(config: Path) -> list[str]:
    return ["nginx", "-e", "stderr", "-c", str(config), "-g", f"daemon off; pid {config.parent}/nginx.pid;"]


def haproxy(config: Path) -> list[str]:
    return ["haproxy", "-f", str(config)]


BALANCERS = [
    Kind("nginx", DOCKER / "nginx" / "nginx.conf", nginx, re.compile(r"tried \S+, "), False),
    Kind("HAProxy", DOCKER / "haproxy" / "haproxy.cfg", haproxy, re.compile(r"/\+\d+ \d+/\d+ "), True),
]


class Balancer:
    """One that runs as its example says, but for the addresses."""

    def __init__(self, kind: Kind, instances: list[Instance], place: Path) -> None:
        self.kind = kind
        self.address = (HOST, free_port())
        config = place / kind.example.name
        config.write_text(substituted(kind, self.address, instances))
        self._log = place / f"{kind.name}.log"
        with open(self._log, "a") as log:
            self._process = subprocess.Popen(kind.command(config), stdout=log, stderr=log)
        wait_for(f"{kind.name} passes requests on", self._is_there, START_SECONDS)

    def _is_there(self) -> bool:
        if self._process.poll() is not None:
            raise SystemExit(f"{self.kind.name} has not started: {self._log.read_text()}")
        try:
            return ask(self.address, get("/health")).status == 200
        except OSError:
            return False

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()

    def repeated(self) -> int:
        """How many requests it has sent to more than one instance."""
        return len(self.kind.repeated.findall(self._log.read_text()))


def substituted(kind: Kind, address: Address, instances: list[Instance]) -> str:
    config = kind.example.read_text()
    addresses = [address, *(instance.address for instance in instances)]
    for example, (host, port) in zip([EXAMPLE_ADDRESS, *EXAMPLE_INSTANCES], addresses, strict=True):
        assert config.count(example) == 1, f"expected {example} once in {kind.example}"
        config = config.replace(example, f"{host}:{port}")
    return config


# --------------------------------------------------------------------------- load and phases


class Load:
    """Clients who ask one request after the other."""

    def __init__(self, judge: Judge, address: Address) -> None:
        self._judge, self._address = judge, address
        self._stop = threading.Event()
        self._exchanges: list[Exchange] = []
        self._n_told = 0
        self._clients = [threading.Thread(target=self._run, args=(client,)) for client in range(CLIENTS)]

    def __enter__(self) -> "Load":
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for client in self._clients:
            client.join()

    def _run(self, client: int) -> None:
        kinds = self._judge.mix.kinds
        for turn in count(client):
            if self._stop.is_set():
                return
            self._exchanges.append(self._judge.exchange(self._address, kinds[turn % len(kinds)]))

    def ended(self) -> list[Exchange]:
        """What has ended since this was last asked."""
        exchanges = self._exchanges[self._n_told :]
        self._n_told += len(exchanges)
        return exchanges


@dataclass(frozen=True)
class Phase:
    """A stretch of time, and what ended in it."""

    name: str
    may_cut: bool
    seconds: float
    exchanges: list[Exchange]
    repeated: int

    def n(self, ending: str) -> int:
        return sum(exchange.ending == ending for exchange in self.exchanges)

    def answers_per_second(self) -> float:
        return self.n("whole") / self.seconds

    def tokens_per_second(self) -> float:
        return sum(exchange.tokens for exchange in self.exchanges) / self.seconds

    def row(self) -> list[str]:
        seconds = sorted(exchange.seconds() for exchange in self.exchanges) or [0.0]
        firsts = sorted(exchange.first - exchange.began for exchange in self.exchanges if exchange.asked.is_streamed)
        times = quantile(firsts or [0.0], 0.5), quantile(seconds, 0.5), quantile(seconds, 0.99), seconds[-1]
        endings = [str(self.n(ending)) for ending in ("whole", "cut", "refused", "failed", "wrong")]
        rates = [f"{self.seconds:.1f}", f"{self.answers_per_second():.0f}", f"{self.tokens_per_second():.0f}"]
        return [self.name, *rates, *endings, str(self.repeated), *(f"{time:.2f}" for time in times)]


HEADER = ["phase", "s", "answers/s", "tokens/s", "whole", "cut", "refused", "failed", "wrong", "repeated",
          "first p50 s", "p50 s", "p99 s", "max s"]  # fmt: skip


def print_table(phases: list[Phase]) -> None:
    rows = [HEADER, *(phase.row() for phase in phases)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells), flush=True)


class Timeline:
    """Phases without a gap between them: every request ends in one."""

    def __init__(self, load: Load, balancer: Balancer) -> None:
        self._load, self._balancer = load, balancer
        self._began = time.monotonic()
        self._repeated = balancer.repeated()
        self.phases: list[Phase] = []

    @contextmanager
    def phase(self, name: str, seconds: float, may_cut: bool = False) -> Iterator[None]:
        """Lasts for so long, or for longer where what is done in it does."""
        yield
        time.sleep(max(0.0, self._began + seconds - time.monotonic()))
        self.close(name, may_cut)

    def wait_for_repetition(self) -> None:
        """Of a request, in this phase. It is counted when it ends."""
        end = time.monotonic() + BUSY_SECONDS
        while self._balancer.repeated() <= self._repeated and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)

    def close(self, name: str, may_cut: bool = False) -> None:
        now, repeated = time.monotonic(), self._balancer.repeated()
        seconds, n_repeated = now - self._began, repeated - self._repeated
        self.phases.append(Phase(name, may_cut, seconds, self._load.ended(), n_repeated))
        self._began, self._repeated = now, repeated


def run_phases(
    timeline: Timeline, report: Report, instances: list[Instance], seconds: float, notices_hangs: bool
) -> None:
    killed, drained, hung = instances
    with timeline.phase("all well", seconds):
        pass

    wait_until_busy(killed)
    with timeline.phase("one killed", seconds, may_cut=True):
        killed.end()
        timeline.wait_for_repetition()
    restart(timeline, killed, seconds)

    wait_until_busy(drained)
    with timeline.phase("one drained", seconds):
        drained.send(signal.SIGTERM)
        report.equal("exit code of the drained", drained.wait(), 0)
    restart(timeline, drained, seconds)

    hang_seconds = max(seconds, LEAST_HANG_SECONDS)
    wait_until_busy(hung)
    with timeline.phase("one hung", hang_seconds, may_cut=True):
        hung.send(signal.SIGSTOP)
        if notices_hangs:
            timeline.wait_for_repetition()
    with timeline.phase("it goes on", seconds, may_cut=True):
        hung.send(signal.SIGCONT)

    wait_until_busy(hung)
    with timeline.phase("one hung, then killed", seconds, may_cut=True):
        hung.send(signal.SIGSTOP)
        time.sleep(seconds / 2)
        hung.end()
        timeline.wait_for_repetition()
    hung.start()


def wait_until_busy(instance: Instance) -> None:
    """Somebody is served there and somebody waits."""
    wait_for("an instance has more than one request", lambda: instance.n_inside() > 1, BUSY_SECONDS)


def restart(timeline: Timeline, instance: Instance, seconds: float) -> None:
    with timeline.phase("restarted", seconds):
        instance.start()
        wait_for("the restarted one answers clients", lambda: instance.total("blazr_finished_total") > 0, BUSY_SECONDS)


def check_phases(report: Report, kind: Kind, phases: list[Phase]) -> None:
    for phase in phases:
        what = f"{kind.name}: {phase.name}"
        bad = [e for e in phase.exchanges if e.ending not in ("whole", "cut")]
        found = Counter(f"{exchange.ending}: {exchange.detail}" for exchange in bad)
        report.equal(f"{what}: what a repetition could have hidden, or is wrong", dict(found), {})
        cut = [exchange for exchange in phase.exchanges if exchange.ending == "cut"]
        most = MOST_CUT if phase.may_cut else 0
        is_expected = len(cut) <= most and all(exchange.asked.is_streamed for exchange in cut)
        found = dict(Counter(exchange.detail for exchange in cut))
        report.check(f"{what}: cut", found, is_expected, f"{most} streams at most")


def check_throughput(report: Report, kind: Kind, phases: list[Phase]) -> None:
    """Of all but the last, in which clients stop."""
    least = LEAST_SHARE * phases[0].answers_per_second()
    for phase in phases[:-1]:
        found = phase.answers_per_second()
        what = f"{kind.name}: {phase.name}: answers a second"
        report.check(what, f"{found:.1f}", found >= least > 0, f"{least:.1f} or more")


# --------------------------------------------------------------------------- what else a balancer must do


def check_unbuffered(report: Report, asked: Asked, balancer: Balancer) -> None:
    """Events come one by one, where the machine is fast enough."""
    most = max(n_pieces(balancer.address, asked) for _ in range(STREAMS))
    found = f"{asked.tokens} tokens in {most} pieces"
    report.check(f"{balancer.kind.name}: events", found, most > asked.tokens / 4, "more pieces")


def n_pieces(address: Address, asked: Asked) -> int:
    with request(address, asked) as response:
        return sum(1 for _ in iter(response.read1, b""))


def check_hang_ups(report: Report, balancer: Balancer, instances: list[Instance]) -> None:
    """Clients who go away give up their places behind the balancer too."""

    def cancelled() -> float:
        return sum(instance.total("blazr_cancelled_total") for instance in instances)

    before = cancelled()
    connections = [Connection(balancer.address).send(endless(is_streamed)) for is_streamed in (True, False, False)]
    wait_until_inside(instances, len(connections))
    for connection in connections:
        connection.close()
    began = time.monotonic()
    while cancelled() - before < len(connections) and time.monotonic() - began < CANCEL_SECONDS:
        time.sleep(0.01)
    report.equal(f"{balancer.kind.name}: clients who went away, cancelled", cancelled() - before, len(connections))


def wait_until_inside(instances: list[Instance], n: int) -> None:
    def are_inside() -> bool:
        return sum(instance.n_inside() for instance in instances) == n

    wait_for(f"{n} requests have reached an instance", are_inside, BUSY_SECONDS)


def check_long_drain(report: Report, judge: Judge, balancer: Balancer, instances: list[Instance]) -> None:
    """A stream goes on for as long as its instance takes to drain, though nobody else is sent there."""
    drained = instances[0]
    with ThreadPoolExecutor(len(instances)) as pool:
        futures = []
        # One by one, so that each instance gets one.
        for n in range(1, len(instances) + 1):
            futures.append(pool.submit(judge.exchange, balancer.address, judge.mix.long))
            wait_until_inside(instances, n)
        report.equal(f"{balancer.kind.name}: long streams at the one to be drained", drained.n_inside(), 1)
        drained.send(signal.SIGTERM)
        exchanges = [future.result() for future in futures]
    found = Counter(f"{exchange.ending} {exchange.detail}".strip() for exchange in exchanges)
    report.equal(f"{balancer.kind.name}: long streams while one drains", dict(found), {"whole": len(instances)})
    report.equal("exit code of the drained", drained.wait(), 0)
    drained.start()


def check_all_full(report: Report, judge: Judge, balancer: Balancer) -> None:
    """More than there is room for: each is served, or told when to come back."""
    with ThreadPoolExecutor(BURST) as pool:
        exchanges = list(pool.map(lambda _: judge.exchange(balancer.address, judge.mix.short), range(BURST)))
    found = Counter(e.ending if e.ending == "whole" else f"{e.ending}: {e.detail}" for e in exchanges)
    is_expected = {exchange.ending for exchange in exchanges} == {"whole", "refused"}
    expected = "some whole, the others refused with Retry-After"
    report.check(f"{balancer.kind.name}: {BURST} at once", dict(found), is_expected, expected)


def check_quick(report: Report, balancer: Balancer, instances: list[Instance]) -> None:
    """What generates nothing waits for no generation. If it had its turn behind those that wait for a place, not all places
    would be taken after it, or it would take long."""

    def are_full() -> bool:
        return sum(instance.n_inside() for instance in instances) >= len(instances) * MAX_QUEUE

    with ExitStack() as stack:
        for _ in range(CROWD):
            stack.callback(Connection(balancer.address).send(endless(False)).close)
        wait_for("all instances have enough to do", are_full, BUSY_SECONDS)
        began = time.monotonic()
        statuses = [ask(balancer.address, get(path)).status for path in ("/health", "/v1/models")]
        seconds, what = time.monotonic() - began, f"{balancer.kind.name}: /health and /v1/models while all are full"
        report.equal(what, statuses, [200, 200])
        is_quick, expected = are_full() and seconds < QUICK_SECONDS, f"before any has room, within {QUICK_SECONDS} s"
        report.check(f"{what}, after", f"{seconds:.2f} s", is_quick, expected)
    wait_until_inside(instances, 0)


def check_large(report: Report, judge: Judge, balancer: Balancer) -> None:
    """A request for which no buffer is large enough."""
    large = judge.mix.large
    exchange = judge.exchange(balancer.address, large)
    report.equal(f"{balancer.kind.name}: {large.padding} bytes", exchange.ending, "whole")


def check_metrics(report: Report, balancer: Balancer) -> None:
    status = ask(balancer.address, get("/metrics")).status
    report.equal(f"{balancer.kind.name}: /metrics", status, 404)


def check(report: Report, judge: Judge, kind: Kind, instances: list[Instance], place: Path, seconds: float) -> None:
    balancer = Balancer(kind, instances, place)
    with ExitStack() as stack:
        stack.callback(balancer.end)
        check_metrics(report, balancer)
        check_large(report, judge, balancer)
        check_unbuffered(report, Asked(40, True, 0), balancer)
        check_hang_ups(report, balancer, instances)
        check_long_drain(report, judge, balancer, instances)
        check_all_full(report, judge, balancer)
        check_quick(report, balancer, instances)
        with Load(judge, balancer.address) as load:
            timeline = Timeline(load, balancer)
            run_phases(timeline, report, instances, seconds, kind.notices_hangs)
        timeline.close("the last answers")
        check_phases(report, kind, timeline.phases)
        if seconds >= LEAST_SECONDS:
            check_throughput(report, kind, timeline.phases)
        print_table(timeline.phases)


def main() -> None:
    options = arguments(__doc__, seconds=2, percent=100)
    report = Report()
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="blazr-failover-")))
        instances = []
        for _ in EXAMPLE_INSTANCES:
            instances.append(Instance(options.blazr))
            stack.callback(instances[-1].end)
        judge = Judge(instances[0].address, Mix(options.percent))
        for kind in BALANCERS:
            print(f"== {kind.name}", flush=True)
            check(report, judge, kind, instances, place, options.seconds)
    report.end()


if __name__ == "__main__":
    main()
