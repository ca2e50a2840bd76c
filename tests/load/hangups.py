"""Clients hang up while they wait, in prefill and in decode, streamed and not, by the usual way and by a reset: each
gives up its place within one chunk of a prompt or one token, each is counted in the phase that it was in, and after
thousands of them the server holds no more memory, files or threads than before.

In most rounds two streamed and two whole requests wait behind one that runs: those that wait go first, each kind at
once, then the one that runs. In every fifth round all five go at the same moment.
"""

import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

from harness import Connection, Report, Server, ask, arguments, completion, endless, get, quantile, series, wait_for

PROMPT = [5 + i % 1000 for i in range(4000)]
PREFILL_CHUNK = 256
WAITING = 2
PER_ROUND = 1 + 2 * WAITING
STORM_EVERY = 5

# Most rounds hang up in the first chunk of the prompt, these some time later.
LATE_SHARE = 0.02
LATEST_SECONDS = 2.0

# The first half is a warm-up, the second must not add to its memory.
FIFTHS = 5

PATIENCE_SECONDS = 10
RUNNING_KINDS = [("prefill", True), ("decode", True), ("prefill", False), ("decode", False)]
STARTED = {"prefill": "blazr_queue_time_seconds_count", "decode": "blazr_time_to_first_token_seconds_count"}

# Beside the computation itself: what passes between processes that share two cores.
SLACK_SECONDS = 0.005
STALL_SECONDS = 0.1

Kind = tuple[str, bool]


class Pace:
    """How long this server takes for one request of a token, a chunk of a prompt, and a token."""

    def __init__(self, server: Server) -> None:
        connection = Connection(server.address)
        self.request = statistics.median(freed_after(connection) for _ in range(50))
        ends = range(PREFILL_CHUNK, len(PROMPT) + 1, PREFILL_CHUNK)
        upto = [0.0, *(freed_after(connection, PROMPT[:end]) for end in ends)]
        self.chunk = sorted(after - before for before, after in pairwise(upto))
        self.token = sorted(list(gaps(server, endless(True, max_tokens=1000)))[1:])

    def bound(self, phase: str) -> tuple[float, float]:
        """Within how many seconds a place is free again: usually, and always."""
        steps = {"prefill": self.chunk, "decode": self.token, "queued": [0.0]}[phase]
        return quantile(steps, 0.5) + SLACK_SECONDS, steps[-1] + STALL_SECONDS


def gaps(server: Server, request: bytes) -> Iterator[float]:
    """The time before each piece of an answer."""
    connection = Connection(server.address).send(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
    last = time.monotonic()
    while connection.piece():
        now = time.monotonic()
        yield now - last
        last = now


def freed_after(connection: Connection, prompt: list[int] = [5]) -> float:
    """The time until a request of one token is answered."""
    began = time.monotonic()
    answer = connection.send(completion(prompt=prompt, max_tokens=1)).answer()
    assert answer.status == 200, answer
    return time.monotonic() - began


class Clients:
    """Those who hang up, and the one who watches."""

    def __init__(self, server: Server, pace: Pace) -> None:
        self.server = server
        self.pace = pace
        self.watch = Connection(server.address)
        self.random = random.Random(1)
        self.n_rounds = 0
        self.gone: Counter[str] = Counter()
        self.gone_in_storms = 0
        self.freed: defaultdict[Kind, list[float]] = defaultdict(list)

    def metrics(self) -> dict[str, float]:
        return series(self.watch.send(get("/metrics")).answer().body.decode())

    def waiting(self) -> int:
        return int(self.metrics()["blazr_queue_requests"])

    def round(self) -> None:
        phase, is_streamed = RUNNING_KINDS[self.n_rounds % len(RUNNING_KINDS)]
        is_reset = self.random.random() < 0.5
        runner = self.start(phase, is_streamed)
        groups = {("queued", streamed): self.enqueue(streamed) for streamed in (True, False)}
        if self.n_rounds % STORM_EVERY == 0:
            self.storm([runner, *groups["queued", True], *groups["queued", False]], is_reset)
        else:
            for kind, group in groups.items():
                self.leave_queue(kind, group, is_reset)
            self.leave_loop((phase, is_streamed), runner, is_reset)
        self.n_rounds += 1

    def rounds(self, count: int) -> list[int]:
        """So many rounds, and the RSS after each fifth of them, in KiB."""
        course = []
        for done in range(1, count + 1):
            self.round()
            if done * FIFTHS // count > len(course):
                course.append(self.server.footprint().rss_kib)
        return course

    def start(self, phase: str, is_streamed: bool) -> Connection:
        """A request that is in this phase."""
        count = self.metrics()[STARTED[phase]]
        prompt = {"prompt": PROMPT} if phase == "prefill" else {}
        connection = Connection(self.server.address).send(endless(is_streamed, **prompt))
        wait_for(f"a request is in {phase}", lambda: self.metrics()[STARTED[phase]] > count, PATIENCE_SECONDS)
        if phase == "prefill" and self.random.random() < LATE_SHARE:
            time.sleep(self.random.uniform(0, LATEST_SECONDS))
        return connection

    def enqueue(self, is_streamed: bool) -> list[Connection]:
        """Requests that wait."""
        before = self.waiting()
        group = [Connection(self.server.address).send(endless(is_streamed)) for _ in range(WAITING)]
        wait_for("requests wait", lambda: self.waiting() == before + WAITING, PATIENCE_SECONDS)
        return group

    def leave_queue(self, kind: Kind, group: list[Connection], is_reset: bool) -> None:
        remaining = self.waiting() - len(group)
        for connection in group:
            connection.close(is_reset)
        seconds = wait_for("the queue is shorter", lambda: self.waiting() == remaining, PATIENCE_SECONDS)
        self.freed[kind].append(seconds)
        self.gone["queued"] += len(group)

    def leave_loop(self, kind: Kind, runner: Connection, is_reset: bool) -> None:
        runner.close(is_reset)
        self.freed[kind].append(max(0.0, freed_after(self.watch) - self.pace.request))
        self.gone[kind[0]] += 1

    def storm(self, connections: list[Connection], is_reset: bool) -> None:
        """All at once, in any order."""
        self.random.shuffle(connections)
        for connection in connections:
            connection.close(is_reset)
        freed_after(self.watch)
        self.gone_in_storms += len(connections)


def cancelled(metrics: dict[str, float]) -> Counter[str]:
    name = 'blazr_cancelled_total{{phase="{}"}}'
    return Counter({phase: int(metrics[name.format(phase)]) for phase in ("queued", "prefill", "decode")})


def check_times(report: Report, clients: Clients) -> None:
    for (phase, is_streamed), seconds in sorted(clients.freed.items()):
        usually, always = clients.pace.bound(phase)
        median, most = statistics.median(seconds), max(seconds)
        found = f"median {1000 * median:.1f} ms, max {1000 * most:.1f} ms, n {len(seconds)}"
        expected = f"a median within {1000 * usually:.1f} ms and all within {1000 * always:.1f} ms"
        what = f"free after a hang-up, {phase}, {'streamed' if is_streamed else 'whole'}"
        report.check(what, found, median <= usually and most <= always, expected)


def check_counts(report: Report, clients: Clients) -> None:
    """A hang-up in a storm may find its request in any phase."""
    found = cancelled(clients.server.metrics())
    for phase, gone in clients.gone.items():
        most = gone + clients.gone_in_storms
        holds = gone <= found[phase] <= most
        report.check(f"counted as cancelled in {phase}", found[phase], holds, f"{gone} to {most}")
    report.equal("counted as cancelled", found.total(), clients.gone.total() + clients.gone_in_storms)


def main() -> None:
    options = arguments(__doc__, count=10_000)
    report = Report()
    with Server(options.blazr) as server:
        pace = Pace(server)
        print(
            f"one request of a token takes {1000 * pace.request:.1f} ms, a chunk of the prompt "
            f"{1000 * quantile(pace.chunk, 0.5):.0f} to {1000 * pace.chunk[-1]:.0f} ms, a token "
            f"{1000 * quantile(pace.token, 0.5):.1f} to {1000 * pace.token[-1]:.1f} ms",
            flush=True,
        )
        clients = Clients(server, pace)
        n_rounds = -(-options.count // PER_ROUND)
        began = time.monotonic()
        course = clients.rounds(n_rounds // 2)
        half = server.footprint_at_rest()
        course += clients.rounds(n_rounds - clients.n_rounds)
        seconds = time.monotonic() - began
        print(f"{n_rounds * PER_ROUND} hang-ups in {seconds:.0f} s", flush=True)
        print(f"RSS after each tenth, in MiB: {', '.join(str(kib // 1024) for kib in course)}", flush=True)
        report.growth(half, server.footprint_at_rest())
        check_times(report, clients)
        check_counts(report, clients)
        answer = ask(server.address, completion(prompt="Once upon a time", max_tokens=5, ignore_eos=True)).json()
        report.equal("tokens of an answer afterwards", answer["usage"]["completion_tokens"], 5)
    report.end()


if __name__ == "__main__":
    main()
