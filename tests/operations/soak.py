"""A mixed load above what the server can do, for as long as it is asked: short and long prompts, streamed and whole,
given up at any point, broken, too large, for models that are not there; with everybody else's health checks, scrapes
and tokenizing between them.

First it is measured how long the loop works on a request of the mix, one after the other. Then requests come at random
times (a Poisson process) `--load` times as often as the loop could do them, whether it keeps up or not. At the end each
client has been told what it should be or 429, memory, files and threads are where they were, the last third of the time
went as the first, and the server has counted what the clients have. `--minutes 1` says so within looser bounds.

Other programs on the machine slow all of this down: of what passes on the clock, the part counts in which the loop's
thread had a core when it wanted one.
"""

import argparse
import json
import math
import random
import re
import resource
import statistics
import sys
import threading
import time
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "load"))
from harness import START_SECONDS, Address, Answer, Connection, Footprint, Report, Server, get, post, quantile, series, wait_for  # noqa: E402

SEED = 1
MAX_QUEUE = 16
BODY_LIMIT = 1 << 20
CONTEXT = 4352

# Their work differs much, so that it takes many to know the mean.
LEAST_CALIBRATION = 60
CALIBRATION_SECONDS = (8.0, 40.0)
LOOK_EVERY_SECONDS = 0.5
# Patient enough for a machine that does something else most of the time.
TIMEOUT_SECONDS = 600.0
CLIENTS = 96

# Whoever hangs up so soon may never have been heard: what it asked for need not be counted.
EARLY_SECONDS = 1.0

# The same load comes before the time that counts: the allocator's last large steps come after minutes.
WARM_UP_SECONDS = (15.0, 600.0)

# Requests take memory while they wait and run. What counts is what is held besides, which is what the tenth of the looks
# with the fewest requests find, in each of so many parts of the time: looks after one another find the same pages, so
# they would tell less of a trend than as many numbers do.
QUIETEST = 0.1
PARTS = 16

# Requests that are not in the queue have two file descriptors each, and work beside the connections a thread.
MOST_HANDLES = 6

# A quantile with fewer values beyond it is chance.
LEAST_BEYOND = 5
# Requests that wait for one and the same answer are slow together: a queue takes longer to have a mean.
LEAST_BEYOND_IN_QUEUE = 50

COMPLETIONS, CHAT, TOKENIZE = "/v1/completions", "/v1/chat/completions", "/tokenize"
GENERATES = (COMPLETIONS, CHAT)
STORY = "Once upon a time there was a little girl named Lily. She liked to play in the garden with her red ball. "


@dataclass(frozen=True)
class Bounds:
    """What may be found. A minute is too short to tell a trend from what one compiler beside it does."""

    slower: dict[float, float]  # for these shares of the requests, the last third of the time to the first one
    rss_growth: float  # under load, of the memory
    least_busy: float  # the loop, of the time

    @staticmethod
    def of(minutes: float) -> "Bounds":
        if minutes < 5:
            return Bounds({0.5: 4.0, 0.95: 6.0}, rss_growth=0.5, least_busy=0.5)
        return Bounds({0.5: 1.25, 0.95: 1.5}, rss_growth=0.03, least_busy=0.9)


# --------------------------------------------------------------------------- what is asked for


@dataclass(frozen=True)
class Asked:
    """A request, what it may be answered besides 429, and when its client hangs up, if it does: after so many seconds
    without a word, or so many pieces of an answer."""

    kind: str
    route: str
    request: bytes
    statuses: tuple[int, ...] = (200,)
    method: str = "POST"
    n: int = 1
    max_tokens: int = 0
    prompt_tokens: int = 0
    is_streamed: bool = False
    patience_seconds: float = math.inf
    pieces: float = math.inf

    def leaves(self) -> bool:
        return min(self.patience_seconds, self.pieces) < math.inf

    def generates(self) -> bool:
        return self.route in GENERATES and self.statuses == (200,)


def read(kind: str, route: str, *statuses: int) -> Asked:
    return Asked(kind, route, get(route), statuses or (200,), "GET")


def written(kind: str, route: str, fields: dict[str, Any], status: int = 200, **known: Any) -> Asked:
    return Asked(kind, route, post(route, json.dumps(fields).encode()), (status,), **known)


def generation(
    kind: str, route: str, fields: dict[str, Any], max_tokens: int, is_streamed: bool, **known: Any
) -> Asked:
    streamed = {"stream": True, "stream_options": {"include_usage": True}} if is_streamed else {}
    fields = {**fields, **streamed, "max_tokens": max_tokens}
    return written(kind, route, fields, max_tokens=max_tokens, is_streamed=is_streamed, **known)


Draw = Callable[[random.Random], Asked]


def prompt(draw: random.Random, least: int, most: int) -> list[int]:
    return [draw.randrange(5, 1000) for _ in range(draw.randint(least, most))]


def short_completion(draw: random.Random) -> Asked:
    fields = {"prompt": STORY, "seed": draw.randrange(1000)}
    return generation("completion", COMPLETIONS, fields, draw.randint(8, 48), draw.random() < 0.5)


def short_chat(draw: random.Random) -> Asked:
    content = f"What is {draw.randrange(50)} plus {draw.randrange(50)}?"
    fields = {"messages": [{"role": "user", "content": content}], "seed": draw.randrange(1000)}
    return generation("chat", CHAT, fields, 32, draw.random() < 0.5)


def long_prompt(draw: random.Random) -> Asked:
    fields = {"prompt": prompt(draw, 500, 3000), "ignore_eos": True}
    return generation("long prompt", COMPLETIONS, fields, 16, draw.random() < 0.7)


def long_answer(draw: random.Random) -> Asked:
    fields = {"prompt": STORY, "ignore_eos": True, "seed": draw.randrange(1000)}
    return generation("long answer", COMPLETIONS, fields, draw.randint(200, 500), draw.random() < 0.7)


def logprobs(draw: random.Random) -> Asked:
    fields = {"prompt": STORY, "logprobs": 5, "seed": draw.randrange(1000)}
    return generation("logprobs", COMPLETIONS, fields, 32, draw.random() < 0.5)


def two_answers(draw: random.Random) -> Asked:
    fields = {"messages": [{"role": "user", "content": "Tell me a story."}], "n": 2, "seed": draw.randrange(1000)}
    return generation("n=2", CHAT, fields, 24, draw.random() < 0.5, n=2)


def hung_up(draw: random.Random) -> Asked:
    """Given up in the queue, in its prompt, or in its text."""
    is_streamed = draw.random() < 0.7
    if is_streamed and draw.random() < 0.5:
        when = {"pieces": float(draw.randint(1, 60))}
    else:
        when = {"patience_seconds": math.exp(draw.uniform(math.log(0.01), math.log(3)))}
    tokens = prompt(draw, 2, 1500)
    fields = {"prompt": tokens, "ignore_eos": True}
    max_tokens = draw.randint(30, 300)
    return generation("hung up", COMPLETIONS, fields, max_tokens, is_streamed, prompt_tokens=len(tokens), **when)


MALFORMED = [
    b"",
    b"[" * 1000,
    b'{"prompt": "a"',
    b'{"prompt": "a", "max_tokens": -1}',
    b'{"prompt": "a", "temperature": "hot"}',
    b'{"prompt": {"a": 1}}',
    b'{"prompt": "a", "n": 0}',
    b'{"prompt": "a"} and more',
    b'\xff\xfe{"prompt": 1}',
]


def malformed(draw: random.Random) -> Asked:
    return Asked("malformed", COMPLETIONS, post(COMPLETIONS, draw.choice(MALFORMED)), (400,))


def oversized(draw: random.Random) -> Asked:
    """A byte too much: of more than that the connection may be reset before the answer was read."""
    route = draw.choice(GENERATES)
    start, end = b'{"prompt":"', b'"}'
    body = start + b"a" * (BODY_LIMIT + 1 - len(start) - len(end)) + end
    return Asked("oversized", route, post(route, body), (413,))


def too_long(_: random.Random) -> Asked:
    return written("too long", COMPLETIONS, {"prompt": [5] * (CONTEXT + 100)}, 400)


def unknown_model(draw: random.Random) -> Asked:
    return written("unknown model", COMPLETIONS, {"model": f"model-{draw.randrange(9)}", "prompt": "a"}, 404)


def tokenize(draw: random.Random) -> Asked:
    return written("tokenize", TOKENIZE, {"prompt": STORY * draw.randint(1, 20)})


def health(_: random.Random) -> Asked:
    return read("health", "/health")


def ready(_: random.Random) -> Asked:
    return read("ready", "/health/ready", 200, 503)


def metrics(_: random.Random) -> Asked:
    return read("metrics", "/metrics")


# So many of a hundred.
MIX: dict[Draw, int] = {
    short_completion: 18,
    short_chat: 14,
    long_prompt: 4,
    long_answer: 6,
    logprobs: 5,
    two_answers: 5,
    hung_up: 18,
    malformed: 5,
    oversized: 2,
    too_long: 2,
    unknown_model: 3,
    tokenize: 6,
    health: 6,
    ready: 3,
    metrics: 3,
}


def draw_one(draw: random.Random) -> Asked:
    return draw.choices(list(MIX), list(MIX.values()))[0](draw)


# --------------------------------------------------------------------------- what its clients see


@dataclass(frozen=True)
class Seen:
    """What one client has seen."""

    asked: Asked
    came: float
    status: int | None = None
    times: list[float] = field(default_factory=list)
    is_complete: bool = False
    reasons: Counter[str] = field(default_factory=Counter)
    usage: Counter[str] = field(default_factory=Counter)
    complaint: str | None = None
    ended: float = 0.0

    def is_open(self) -> bool:
        """Its client doesn't know what became of it."""
        return not self.is_complete

    def is_early(self) -> bool:
        return self.is_open() and self.ended - self.came < EARLY_SECONDS

    def is_whole_stream(self) -> bool:
        """In more than one piece, so that there is a time between them."""
        is_whole = self.is_complete and self.status == 200 and not self.asked.leaves()
        return is_whole and self.asked.is_streamed and len(self.times) > 1


class HungUp(Exception):
    """A client has had enough."""


class Client(Connection):
    """One that notes when what came, and may hang up."""

    def __init__(self, address: Address, asked: Asked) -> None:
        super().__init__(address, min(asked.patience_seconds, TIMEOUT_SECONDS))
        self.asked = asked
        self.status: int | None = None
        self.times: list[float] = []

    def _more(self) -> None:
        if len(self.times) >= self.asked.pieces:
            raise HungUp
        try:
            super()._more()
        except TimeoutError:
            raise (HungUp if self.asked.leaves() else TimeoutError) from None
        if not self.times:
            self.status = int(self._unread.split(b" ", 2)[1])
        self.times.append(time.monotonic())


def exchange(address: Address, asked: Asked) -> Seen:
    """One request from its beginning to its end, on a connection of its own."""
    came = time.monotonic()
    try:
        client = Client(address, asked)
    except OSError as error:
        return Seen(asked, came, complaint=f"no connection: {error}", ended=time.monotonic())
    known: dict = {}
    try:
        answer = client.send(asked.request).answer()
        known = judged(asked, answer)
    except HungUp:
        pass
    except OSError as error:
        known = {"complaint": f"{type(error).__name__}: {error}"}
    finally:
        client.close()
    return Seen(asked, came, client.status, client.times, ended=time.monotonic(), **known)


def judged(asked: Asked, answer: Answer) -> dict:
    """What is in a whole answer, and what is wrong with it."""
    known: dict = {"is_complete": True}
    if answer.status not in asked.statuses:
        if answer.status != 429 or answer.code() != "queue_full" or not asked.generates():
            known["complaint"] = f"{answer.status} {answer.body[:200]!r}"
        return known
    if asked.generates():
        bodies = [json.loads(event) for event in answer.events()[:-1]] if asked.is_streamed else [answer.json()]
        choices = [choice for body in bodies for choice in body["choices"]]
        known["reasons"] = Counter(choice["finish_reason"] for choice in choices if choice["finish_reason"])
        usage = bodies[-1]["usage"]
        known["usage"] = Counter({tokens: usage[tokens] for tokens in ("prompt_tokens", "completion_tokens")})
        if known["reasons"].total() != asked.n or (asked.is_streamed and answer.events()[-1] != "[DONE]"):
            known["complaint"] = f"{asked.n} answers ended with {dict(known['reasons'])}"
    elif answer.status >= 400 and asked.method == "POST" and not answer.json()["error"]["message"]:
        known["complaint"] = "an error without a message"
    return known


# --------------------------------------------------------------------------- the run


@dataclass(frozen=True)
class Look:
    """The server at one moment."""

    at: float
    footprint: Footprint
    queue: float
    running: float
    ran: float
    waited: float


def stretch(start: Look, end: Look) -> float:
    """How many times as long the loop took, between these, as it would have with a core of its own."""
    ran, waited = end.ran - start.ran, end.waited - start.waited
    return 1 + waited / ran if ran else 1.0


class Watch:
    """Looks at the server every half second, as one of its clients."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._schedule = loop_schedule(server.process.pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.looks: list[Look] = []
        self.seen: list[Seen] = []

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_EVERY_SECONDS):
            self.looks.append(self.look())

    def look(self) -> Look:
        found = self.scrape()
        ran, waited = (int(nanoseconds) / 1e9 for nanoseconds in self._schedule.read_text().split()[:2])
        now, footprint = time.monotonic(), self._server.footprint()
        return Look(now, footprint, found["blazr_queue_requests"], found["blazr_running_requests"], ran, waited)

    def scrape(self) -> dict[str, float]:
        """All metrics, asked for as by any client."""
        asked = read("watch", "/metrics")
        client, came = Client(self._server.address, asked), time.monotonic()
        body = client.send(asked.request).answer().body
        client.close()
        self.seen.append(Seen(asked, came, client.status, client.times, True, ended=time.monotonic()))
        return series(body.decode())


def loop_schedule(pid: int) -> Path:
    """Where the system tells how long the loop's thread ran, and how long it waited for a core."""

    def loop() -> list[Path]:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [task for task in tasks if (task / "comm").read_text().strip() == "inference"]

    # A thread has its name only once it has run.
    wait_for("the loop's thread has its name", lambda: len(loop()) == 1, START_SECONDS)
    return loop()[0] / "schedstat"


def busy(found: dict[str, float]) -> float:
    return found["blazr_loop_busy_seconds_sum"]


def calibrate(server: Server, watch: Watch, seconds: float, draw: random.Random) -> float:
    """How many seconds the loop works on a request of the mix, where none waits for another."""
    start, before, n_asked, end = watch.look(), watch.scrape(), 0, time.monotonic() + seconds
    while time.monotonic() < end or n_asked < LEAST_CALIBRATION:
        exchange(server.address, draw_one(draw))
        n_asked += 1
    wait_for("nothing runs", lambda: at_rest(watch.scrape()), TIMEOUT_SECONDS)
    return (busy(watch.scrape()) - busy(before)) / stretch(start, watch.look()) / n_asked


def offer(server: Server, rate: float, seconds: float, draw: random.Random) -> tuple[list[Seen], list[float]]:
    """Requests at random times, whatever becomes of those before; and how late each came."""
    lateness: list[float] = []

    def come(asked: Asked, due: float) -> Seen:
        lateness.append(time.monotonic() - due)
        return exchange(server.address, asked)

    coming: list[Future[Seen]] = []
    due = began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as clients:
        while (due := due + draw.expovariate(rate)) < began + seconds:
            asked = draw_one(draw)
            time.sleep(max(0.0, due - time.monotonic()))
            coming.append(clients.submit(come, asked, due))
    return [client.result() for client in coming], sorted(lateness)


@dataclass(frozen=True)
class Run:
    """All that was seen."""

    seen: list[Seen]
    watched: list[Seen]
    looks: list[Look]
    began: float
    ended: float
    counted: dict[str, float]  # what the server has counted meanwhile
    busy_share: float

    def looks_under_load(self) -> list[Look]:
        return [look for look in self.looks if look.at <= self.ended]

    def seconds(self, start: float, end: float) -> float:
        """How long this would have taken if the loop had had a core of its own."""
        before = max(bisect_right(self.looks, start, key=attrgetter("at")) - 1, 0)
        after = min(bisect_left(self.looks, end, key=attrgetter("at")), len(self.looks) - 1)
        return (end - start) / stretch(self.looks[before], self.looks[after])

    def first_token(self, seen: Seen) -> float:
        """Seconds to the first piece of a stream, which has its first token."""
        return self.seconds(seen.came, seen.times[0])

    def between_tokens(self, seen: Seen) -> float:
        """Seconds from one token to the next."""
        return self.seconds(seen.times[0], seen.times[-1]) / max(seen.usage["completion_tokens"] - 1, 1)

    def streams(self, number: int = 0, parts: int = 1) -> list[Seen]:
        """Those that came in this part of the time."""
        span = (self.ended - self.began) / parts
        start = self.began + number * span
        return [seen for seen in self.seen if seen.is_whole_stream() and start <= seen.came < start + span]


# --------------------------------------------------------------------------- what must hold


def check_answers(report: Report, run: Run) -> None:
    complaints = Counter(f"{seen.asked.kind}: {seen.complaint}" for seen in run.seen + run.watched if seen.complaint)
    report.equal(f"{len(run.seen)} requests, of which wrongly answered", dict(complaints.most_common(10)), {})


@dataclass(frozen=True)
class Trend:
    """A straight line through the memory's course."""

    mean_kib: float
    growth_kib: float
    error_kib: float  # half of the interval in which the growth lies with a probability of about 95 %

    def __str__(self) -> str:
        growth, error, mean = (kib / 1024 for kib in (self.growth_kib, self.error_kib, self.mean_kib))
        return f"{mean:.1f} MiB, {growth:+.2f} ± {error:.2f} MiB"

    @staticmethod
    def of(looks: list[Look]) -> "Trend":
        size = len(looks) // PARTS
        parts = [looks[i * size : (i + 1) * size] for i in range(PARTS)]
        times = [statistics.mean(look.at for look in part) for part in parts]
        sizes = [statistics.median(look.footprint.rss_kib for look in quietest(part)) for part in parts]
        slope, start = statistics.linear_regression(times, sizes)
        rest = sum((size - start - slope * at) ** 2 for at, size in zip(times, sizes, strict=True)) / (PARTS - 2)
        error = math.sqrt(rest / sum((at - statistics.mean(times)) ** 2 for at in times))
        span = looks[-1].at - looks[0].at
        return Trend(statistics.mean(sizes), slope * span, 2 * error * span)


def quietest(looks: list[Look]) -> list[Look]:
    """Those with the fewest requests."""
    return sorted(looks, key=lambda look: look.queue + look.running)[: math.ceil(QUIETEST * len(looks))]


def check_memory(report: Report, run: Run, bounds: Bounds) -> None:
    """Grows by less than the bound, or by nothing that can be told from chance."""
    trend = Trend.of(run.looks_under_load())
    growth = trend.growth_kib / trend.mean_kib
    found = f"{trend} in {run.ended - run.began:.0f} s ({growth:+.1%})"
    is_flat = growth < bounds.rss_growth or trend.growth_kib <= trend.error_kib
    report.check("RSS under load, with few requests", found, is_flat, f"less than {bounds.rss_growth:.0%}, or no trend")


def check_handles(report: Report, run: Run) -> None:
    """Under load there are two file descriptors for each request, and some for those that are not in the queue."""
    looks = run.looks_under_load()
    counts: dict[str, list[float]] = {
        "file descriptors beside two for each request": [
            look.footprint.fds - 2 * (look.queue + look.running) for look in looks
        ],
        "threads": [look.footprint.threads for look in looks],
    }
    third = len(looks) // 3
    for what, numbers in counts.items():
        first, last = statistics.median(numbers[:third]), statistics.median(numbers[-third:])
        name = f"{what}, in the first third and the last"
        report.check(name, f"{first:g}, {last:g}", last <= first + MOST_HANDLES, f"at most {MOST_HANDLES} more")


def check_latency(report: Report, run: Run, bounds: Bounds) -> None:
    for measure, least in ((run.first_token, LEAST_BEYOND_IN_QUEUE), (run.between_tokens, LEAST_BEYOND)):
        first, last = (sorted(map(measure, run.streams(number, 3))) for number in (0, 2))
        for share, most in bounds.slower.items():
            name = (
                f"{measure.__name__}, p{100 * share:.0f} of the first third ({len(first)}) and the last ({len(last)})"
            )
            if (1 - share) * min(len(first), len(last)) < least:
                print(f"{name}: too few to compare")
                continue
            before, after = quantile(first, share), quantile(last, share)
            found = f"{1000 * before:.2f} ms, {1000 * after:.2f} ms, ratio {after / before:.2f}"
            report.check(name, found, after / before <= most, f"at most {most} times as much")


HTTP = re.compile(r'blazr_http_requests_total\{route="([^"]*)",method="([^"]*)",status="(\d+)"\}')
# What may become of a request whose client is gone.
UNSEEN = {200, 429, 499}


def check_counters(report: Report, run: Run) -> None:
    seen = run.seen + run.watched
    check_http(report, run.counted, seen)
    check_generations(report, run.counted, [one for one in seen if one.asked.generates()])


def check_http(report: Report, counted: dict[str, float], seen: list[Seen]) -> None:
    """Each status that a client has seen is counted; the others are of those who left before there was one."""
    server = Counter({(match[1], match[2], int(match[3])): int(count) for name, count in counted.items()
                      if (match := HTTP.fullmatch(name))})  # fmt: skip
    told = Counter((one.asked.route, one.asked.method, one.status) for one in seen if one.status is not None)
    more, less = server - told, told - server
    untold = [one for one in seen if one.status is None]
    least = len(untold) - sum(one.is_early() for one in untold)
    holds = not less and {status for _, _, status in more} <= UNSEEN and least <= more.total() <= len(untold)
    statuses: Counter[int] = Counter()
    for (_, _, status), count in more.items():
        statuses[status] += count
    found = f"{server.total()}, of which unseen {dict(statuses)}, less than seen {dict(less)}"
    expected = f"all {told.total()} that were seen, and of {least} to {len(untold)} whose clients left before"
    report.check("answers counted by route, method and status", found, holds, expected)


def check_generations(report: Report, counted: dict[str, float], seen: list[Seen]) -> None:
    """Of each request whose client has left, one counter tells what became of it."""
    left = [one for one in seen if one.is_open()]
    early = sum(one.is_early() for one in left)
    reasons: Counter[str] = sum((one.reasons for one in seen), Counter())
    finished = Counter({reason: int(counted[f'blazr_finished_total{{finish_reason="{reason}"}}'])
                        for reason in ("stop", "length")})  # fmt: skip
    n_rejected = int(counted['blazr_rejected_total{reason="queue_full"}'])
    n_told = sum(one.status == 429 for one in seen)
    n_cancelled = int(total(counted, "blazr_cancelled_total"))
    unseen = finished - reasons
    holds = not reasons - finished and unseen.total() <= len(left)
    report.check("answers counted as finished", f"{dict(finished)}, of which unseen {dict(unseen)}", holds,
                 f"all of {dict(reasons)}, and some of {len(left)} whose clients left")  # fmt: skip
    holds = n_told <= n_rejected <= n_told + sum(one.status is None for one in left)
    report.check("counted as rejected", n_rejected, holds, f"{n_told}, and what those who left did not see")
    fates = n_cancelled + unseen.total() + n_rejected - n_told
    found = f"{n_cancelled} cancelled, {unseen.total()} finished, {n_rejected - n_told} rejected: {fates}"
    holds = len(left) - early <= fates <= len(left)
    report.check(f"what became of {len(left)} whose clients left", found, holds,
                 f"{len(left) - early} to {len(left)}: {early} left within {1000 * EARLY_SECONDS:.0f} ms")  # fmt: skip
    check_tokens(report, counted, seen, unseen.total())
    others = {name: count for name, count in counted.items() if count and name.startswith("blazr_failed_total")}
    report.equal("failed", others, {})


def check_tokens(report: Report, counted: dict[str, float], seen: list[Seen], n_unseen: int) -> None:
    """Those that clients were told of, and what those few have at most whose clients left before they were told."""
    usage: Counter[str] = sum((one.usage for one in seen), Counter())
    left = [one.asked for one in seen if one.is_open()]
    for what, name, sizes in (
        ("prompt_tokens", "blazr_prompt_tokens_total", [asked.prompt_tokens for asked in left]),
        ("completion_tokens", "blazr_generation_tokens_total", [asked.max_tokens for asked in left]),
    ):
        found, least = int(total(counted, name)), usage[what]
        most = least + sum(sorted(sizes, reverse=True)[:n_unseen])
        report.check(what, found, least <= found <= most, f"{least} to {most}")


def total(counted: dict[str, float], name: str) -> float:
    return sum(count for series, count in counted.items() if series.split("{")[0] == name)


# --------------------------------------------------------------------------- what is shown


def print_conditions(watch: Watch, lateness: list[float]) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    half, most = (1000 * quantile(lateness, share) for share in (0.5, 0.99))
    print(f"for lack of a core the loop took {stretch(watch.looks[0], watch.looks[-1]):.2f} times as long")
    print(f"half of the clients came within {half:.1f} ms of their time, 99 % within {most:.0f} ms")
    print(f"they took {used.ru_utime + used.ru_stime:.0f} s of processor time", flush=True)


def print_table(seen: list[Seen]) -> None:
    rows: defaultdict[str, list[Seen]] = defaultdict(list)
    for one in seen:
        rows[one.asked.kind].append(one)
    print("milliseconds are those to the first byte of an answer other than 429")
    print_row("kind", "asked", "answered", "429", "left", "p50 ms", "p95 ms")
    for kind, ones in sorted(rows.items()):
        answered = [one for one in ones if one.is_complete and one.status != 429]
        times = sorted(1000 * (one.times[0] - one.came) for one in answered) or [math.nan]
        n_refused, n_left = sum(one.status == 429 for one in ones), sum(one.is_open() for one in ones)
        p50, p95 = (f"{quantile(times, share):.1f}" for share in (0.5, 0.95))
        print_row(kind, len(ones), len(answered), n_refused, n_left, p50, p95)


def print_row(kind: str, *cells: object) -> None:
    print(f"{kind:<14}" + "".join(f"{cell!s:>10}" for cell in cells))


def plot(run: Run, path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (memory, queue, latency) = pyplot.subplots(3, sharex=True, figsize=(10, 9), layout="constrained")
    minutes = [(look.at - run.began) / 60 for look in run.looks]
    memory.plot(minutes, [look.footprint.rss_kib / 1024 for look in run.looks], lw=0.8)
    memory.set(ylabel="resident memory, MiB", ylim=(0, None))
    queue.plot(minutes, [look.queue + look.running for look in run.looks], lw=0.5, label="waiting or running")
    at, refused = binned(run, [one for one in run.seen if one.asked.generates()], lambda one: one.status == 429)
    queue.plot(at, [100 * statistics.mean(values) for values in refused], label="answered 429, %")
    queue.set(ylim=(0, None))
    measures = (("first token, ms", run.first_token, 1e3), ("between tokens, µs", run.between_tokens, 1e6))
    for what, measure, factor in measures:
        at, values = binned(run, run.streams(), measure)
        for share in (0.5, 0.95):
            name = f"{what}, p{100 * share:.0f}"
            latency.plot(at, [factor * quantile(sorted(bin), share) for bin in values], label=name)
    latency.set(xlabel="minutes", yscale="log")
    queue.legend()
    latency.legend()
    figure.savefig(path, dpi=120)


def binned(run: Run, seen: Iterable[Seen], measure: Callable[[Seen], float]) -> tuple[list[float], list[list[float]]]:
    """Values by the time at which their requests came, in sixty parts."""
    width = (run.ended - run.began) / 60
    bins: defaultdict[int, list[float]] = defaultdict(list)
    for one in seen:
        bins[int((one.came - run.began) / width)].append(measure(one))
    return [(number + 0.5) * width / 60 for number in sorted(bins)], [bins[number] for number in sorted(bins)]


# --------------------------------------------------------------------------- all of it


def soak(server: Server, rate: float, minutes: float, draw: random.Random) -> Run:
    watch = Watch(server)
    start = watch.scrape()
    with watch:
        before, began = watch.scrape(), time.monotonic()
        seen, lateness = offer(server, rate, 60 * minutes, draw)
        ended, after = time.monotonic(), watch.scrape()
    wait_for("nothing waits or runs", lambda: at_rest(watch.scrape()), TIMEOUT_SECONDS)
    # The last scrape does not count itself.
    last = watch.scrape()
    counted = {name: count - start[name] for name, count in last.items()}
    busy_share = (busy(after) - busy(before)) / (ended - began)
    print_conditions(watch, lateness)
    return Run(seen, watch.seen[:-1], watch.looks, began, began + 60 * minutes, counted, busy_share)


def share_of(minutes: float, share: float, bounds: tuple[float, float]) -> float:
    """The seconds of this share of the time, within bounds."""
    least, most = bounds
    return min(max(60 * minutes * share, least), most)


def at_rest(found: dict[str, float]) -> bool:
    return found["blazr_queue_requests"] == found["blazr_running_requests"] == found["blazr_state_bytes"] == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("blazr", help="the program")
    parser.add_argument("--minutes", type=float, default=60, help="default: %(default)s")
    parser.add_argument("--load", type=float, default=1.2, help="of what the loop can do; default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="of the server; default: %(default)s")
    parser.add_argument("--plot", metavar="FILE", help="draw memory, queue and latency (needs matplotlib)")
    options = parser.parse_args()
    report, bounds = Report(), Bounds.of(options.minutes)
    flags = ["--threads", str(options.threads), "--max-queue", str(MAX_QUEUE), "--body-limit", str(BODY_LIMIT), "--cpu",
             "--queue-timeout", str(TIMEOUT_SECONDS), "--request-timeout", str(2 * TIMEOUT_SECONDS)]  # fmt: skip
    with Server(options.blazr, *flags) as server:
        draw = random.Random(SEED)
        seconds_each = calibrate(server, Watch(server), share_of(options.minutes, 0.1, CALIBRATION_SECONDS), draw)
        rate = options.load / seconds_each
        print(f"the loop works {1000 * seconds_each:.2f} ms on one of the mix: {rate:.1f} come a second", flush=True)
        offer(server, rate, share_of(options.minutes, 1 / 6, WARM_UP_SECONDS), draw)
        before = server.footprint_at_rest()
        run = soak(server, rate, options.minutes, draw)
        after = server.footprint_at_rest()
    print_table(run.seen)
    check_answers(report, run)
    if options.load >= 1:
        found, least = f"{run.busy_share:.1%} of the time", bounds.least_busy
        report.check("the loop works", found, run.busy_share >= least, f"{least:.0%} or more")
    report.growth(before, after)
    check_memory(report, run, bounds)
    check_handles(report, run)
    check_latency(report, run, bounds)
    check_counters(report, run)
    if options.plot:
        plot(run, options.plot)
    report.end()


if __name__ == "__main__":
    main()
