"""What hostile or broken clients do, one kind after the other, while a long generation runs: whatever they do, /health
is answered on a fresh connection within 50 ms, they get an answer or lose their connection, and afterwards the server
has as many files and threads as before and completes a request.

The attackers run in a process of low priority and the one who asks for health in one of high priority, so that what is
measured is the server.
"""

import json
import multiprocessing
import os
import random
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle

from harness import Address, Answer, Connection, Prober, Report, Server, arguments, ask, completion, endless, get, post

MOST_HEALTH_MS = 50.0
NICENESS = 10
TIMEOUT_SECONDS = 20

SILENT_CONNECTIONS = 200
MAX_QUEUE = 64
BURST = 1000
PIPELINED = 1000
LARGE_BODY = 100 << 20
BODY_LIMIT = 4 << 20
SMALL_RECEIVE_BUFFER = 4096
SETTLE_SECONDS = 0.5

Found = Counter[str]


def outcome(connection: Connection) -> str:
    """How an exchange ends."""
    try:
        return str(connection.answer().status)
    except TimeoutError:
        return "no answer"
    except (OSError, ValueError):
        return "closed"


def send_anyway(connection: Connection, request: bytes) -> None:
    """Sends what the server takes of it."""
    try:
        connection.send(request)
    except OSError:
        pass


def again_and_again(address: Address, seconds: float, n_threads: int, exchange: Callable[[Address], Found]) -> Found:
    """Several clients at once, each of which does it until the time is over."""
    end = time.monotonic() + seconds

    def client(_: int) -> Found:
        found: Found = Counter()
        while time.monotonic() < end:
            found += exchange(address)
        return found

    with ThreadPoolExecutor(n_threads) as pool:
        return sum(pool.map(client, range(n_threads)), Counter())


def send_each(address: Address, seconds: float, n_threads: int, requests: list[bytes]) -> Found:
    """Several clients at once, who send these requests in turn."""
    turn = cycle(requests)

    def exchange(address: Address) -> Found:
        connection = Connection(address, TIMEOUT_SECONDS)
        send_anyway(connection, next(turn))
        found = outcome(connection)
        connection.close()
        return Counter([found])

    return again_and_again(address, seconds, n_threads, exchange)


# --------------------------------------------------------------------------- the attacks


def nothing(_: Address, seconds: float) -> Found:
    time.sleep(seconds)
    return Counter()


def slow_readers(address: Address, seconds: float) -> Found:
    """They ask for much and read nothing."""
    connections = []
    for _ in range(SILENT_CONNECTIONS):
        connection = Connection(address)
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_RECEIVE_BUFFER)
        connections.append(connection.send(endless(True, logprobs=5, n=4)))
    time.sleep(seconds)
    found = Counter(status_so_far(connection) for connection in connections)
    for connection in connections:
        connection.close()
    return found


def status_so_far(connection: Connection) -> str:
    if not select.select([connection.socket], [], [], 0)[0]:
        return "waiting"
    return connection.piece().split(b" ", 2)[1].decode()


def half_closed(address: Address, seconds: float) -> Found:
    """They close their side behind the request and wait for the answer."""
    asked = {"health": get("/health"), "completion": completion(prompt=[5], max_tokens=5)}

    def exchange(address: Address) -> Found:
        found: Found = Counter()
        for name, request in asked.items():
            connection = Connection(address, TIMEOUT_SECONDS).send(request)
            connection.socket.shutdown(socket.SHUT_WR)
            found[f"{name} {outcome(connection)}"] += 1
            connection.close()
        return found

    return again_and_again(address, seconds, 4, exchange)


def dribble(address: Address, seconds: float) -> Found:
    """They send a byte each second, some of a body and some of headers."""
    body = post("/v1/completions", b" " * 1000)
    head, text = body[: body.index(b"\r\n\r\n") + 4], body[body.index(b"\r\n\r\n") + 4 :]
    starts = [(head, text), (b"", head)]
    connections = [(Connection(address), *starts[i % 2]) for i in range(SILENT_CONNECTIONS)]
    for connection, start, _ in connections:
        connection.send(start)
    for second in range(int(seconds)):
        for connection, _, rest in connections:
            connection.send(rest[second : second + 1])
        time.sleep(1)
    readable, _, _ = select.select([connection.socket for connection, _, _ in connections], [], [], 0)
    for connection, _, _ in connections:
        connection.close()
    return +Counter({"open": len(connections) - len(readable), "answered or closed": len(readable)})


def large_bodies(address: Address, seconds: float) -> Found:
    """They send 100 MiB, some with its length and some in chunks; some stop at an answer and some don't."""
    head = "POST /v1/completions HTTP/1.1\r\nHost: blazr\r\nContent-Type: application/json\r\n"
    piece = b" " * (64 << 10)
    chunk = f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    measured = (f"{head}Content-Length: {LARGE_BODY}\r\n\r\n".encode(), piece)
    chunked = (f"{head}Transfer-Encoding: chunked\r\n\r\n".encode(), chunk)
    turn = cycle([(measured, True), (chunked, True), (measured, False), (chunked, False)])

    def exchange(address: Address) -> Found:
        (start, part), is_polite = next(turn)
        connection = Connection(address, TIMEOUT_SECONDS)
        send_all_of(connection, start, part, is_polite)
        found = outcome(connection)
        connection.close()
        return Counter([f"{found} to one who {'stops' if is_polite else 'goes on'}"])

    return again_and_again(address, seconds, 8, exchange)


def send_all_of(connection: Connection, start: bytes, part: bytes, is_polite: bool) -> None:
    try:
        connection.send(start)
        for _ in range(LARGE_BODY // len(part)):
            if is_polite and select.select([connection.socket], [], [], 0)[0]:
                return
            connection.send(part)
    except OSError:
        pass


def deep_json(address: Address, seconds: float) -> Found:
    """A megabyte of JSON within JSON, where something is known and where nothing is. None of it asks for a token."""
    n = 1 << 20
    nested = b'{"a":' * (n // 6) + b"1" + b"}" * (n // 6)
    asked = b'{"prompt":"a","max_tokens":0,'
    bodies = [
        b"[" * n,
        b'{"prompt":' + b"[" * n,
        asked + b'"user":' + b"[" * (n // 2) + b"]" * (n // 2) + b"}",
        asked + b'"unknown":' + nested + b"}",
        asked + b'"unknown":' + b"[" * (n // 2) + b"]" * (n // 2) + b"}",
        asked + b",".join(b'"%d":1' % i for i in range(n // 10)) + b"}",
    ]
    return send_each(address, seconds, 4, [post("/v1/completions", body) for body in bodies])


def filled(start: bytes, item: bytes, end: bytes) -> bytes:
    """As many items as the server takes."""
    count = (BODY_LIMIT - len(start) - len(end) - len(item)) // (len(item) + 1)
    return start + b",".join([item] * count) + end


def huge_prompts(address: Address, seconds: float) -> Found:
    """Valid JSON as large as the server takes, and far more than the model does."""
    asked = b'{"prompt":"a","max_tokens":0,'
    words = b"the cat sat " * (BODY_LIMIT // 12 - 10)
    completions = [
        b'{"prompt":"' + words + b'"}',
        filled(b'{"prompt":[', b"5", b"]}"),
        filled(b'{"prompt":[', b"5.0", b"]}"),
        filled(b'{"prompt":[', b"[5]", b"]}"),
        filled(b'{"prompt":[', b'"a"', b"]}"),
        filled(b'{"prompt":[', b'"a"', b",{}]}"),
        filled(b'{"prompt":[', b'"' + b"ab " * 20_000 + b'"', b"]}"),
        filled(asked + b'"stop":[', b'"a"', b"]}"),
        filled(asked + b'"user":[', b"{}", b"]}"),
    ]
    chats = [
        b'{"messages":[{"role":"user","content":"' + words[:-100] + b'"}]}',
        filled(b'{"messages":[', b'{"role":"user","content":"a"}', b"]}"),
        filled(b'{"messages":[{"role":"user","content":[', b'{"type":"text","text":"a"}', b"]}]}"),
    ]
    requests = [post("/v1/completions", body) for body in completions]
    return send_each(address, seconds, 4, requests + [post("/v1/chat/completions", body) for body in chats])


def huge_texts(address: Address, seconds: float) -> Found:
    """The same for the routes that turn text to tokens and back."""
    spaces = b'{"prompt":"' + b" " * (BODY_LIMIT - 100) + b'"}'
    tokens = filled(b'{"tokens":[', b"5", b"]}")
    return send_each(address, seconds, 4, [post("/tokenize", spaces), post("/detokenize", tokens)])


def pipelining(address: Address, seconds: float) -> Found:
    """They ask a thousand times in one go."""

    def exchange(address: Address) -> Found:
        connection = Connection(address, TIMEOUT_SECONDS).send(get("/health/live") * PIPELINED)
        found = Counter(outcome(connection) for _ in range(PIPELINED))
        connection.close()
        return found

    return again_and_again(address, seconds, 4, exchange)


def burst(address: Address, seconds: float) -> Found:
    """A thousand connect at once, of whom every second says nothing."""
    end = time.monotonic() + seconds
    found: Found = Counter()
    while time.monotonic() < end:
        connections = [Connection(address, TIMEOUT_SECONDS) for _ in range(BURST)]
        for connection in connections[::2]:
            connection.send(get("/health/live"))
        found += Counter(outcome(connection) for connection in connections[::2])
        for connection in connections:
            connection.close()
    return found


def header_floods(address: Address, seconds: float) -> Found:
    start = b"GET /health HTTP/1.1\r\nHost: blazr\r\n"
    requests = [
        start + b"x-long: " + b"a" * (1 << 20) + b"\r\n\r\n",
        start + b"".join(b"x-%d: a\r\n" % i for i in range(10_000)) + b"\r\n",
        b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: blazr\r\n\r\n",
        start + b"x-empty\r\n" * 100_000 + b"\r\n",
    ]
    return send_each(address, seconds, 4, requests)


def garbage(address: Address, seconds: float) -> Found:
    """Random bytes, and the first bytes of other protocols."""
    noise = random.Random(1)
    others = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise.randbytes(500),
              b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"]  # fmt: skip
    requests = [noise.randbytes(noise.randrange(64, 65536)) for _ in range(100)]
    return send_each(address, seconds, 4, requests + others)


# --------------------------------------------------------------------------- how they are met


@dataclass(frozen=True)
class Attack:
    """What is done, and how it may end for whoever does it."""

    run: Callable[[Address, float], Found]
    endings: frozenset[str]
    is_the_work: bool = False

    def name(self) -> str:
        return self.run.__name__.replace("_", " ")


def ends_with(run: Callable[[Address, float], Found], *endings: str, is_the_work: bool = False) -> Attack:
    return Attack(run, frozenset(endings), is_the_work)


ATTACKS = [
    ends_with(nothing),
    ends_with(slow_readers, "200", "429", "waiting", is_the_work=True),
    ends_with(half_closed, "health 200", "health closed", "completion 200", "completion closed"),
    ends_with(dribble, "open"),
    ends_with(large_bodies, "413 to one who stops", "413 to one who goes on", "closed to one who goes on"),
    ends_with(deep_json, "400"),
    ends_with(huge_prompts, "400", "413"),
    ends_with(huge_texts, "200", "400", "413"),
    ends_with(pipelining, "200"),
    ends_with(burst, "200"),
    ends_with(header_floods, "400", "414", "431", "closed"),
    ends_with(garbage, "400", "closed"),
]


@contextmanager
def long_generation(address: Address) -> Iterator[None]:
    """Somebody always has a long text generated."""
    client = multiprocessing.Process(target=generate_forever, args=(address,))
    client.start()
    time.sleep(SETTLE_SECONDS)
    try:
        yield
        assert client.is_alive(), "the long generation broke off"
    finally:
        client.terminate()
        client.join()


def generate_forever(address: Address) -> None:
    os.nice(NICENESS)
    while True:
        ask(address, endless(True))


def carry_out(attack: Attack, address: Address, seconds: float) -> tuple[Found, Prober]:
    with ProcessPoolExecutor(1, initializer=os.nice, initargs=(NICENESS,)) as attackers:
        with Prober(address) as prober:
            found = attackers.submit(attack.run, address, seconds).result()
    return found, prober


def check(report: Report, server: Server, attack: Attack, seconds: float) -> None:
    if attack.is_the_work:
        found, prober = carry_out(attack, server.address, seconds)
    else:
        with long_generation(server.address):
            found, prober = carry_out(attack, server.address, seconds)
    p50, p99, most = (prober.milliseconds(share) for share in (0.5, 0.99, 1))
    times = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {most:.1f} ms of {len(prober.seconds)}"
    memory = f"RSS {server.footprint().rss_kib // 1024} MiB"
    expected = f"all below {MOST_HEALTH_MS:.0f} ms"
    report.check(f"{attack.name()}: health", f"{times}, {memory}", most < MOST_HEALTH_MS, expected)
    if attack.endings:
        endings = ", ".join(f"{ending}: {count}" for ending, count in sorted(found.items()))
        is_expected = bool(found) and found.keys() <= attack.endings
        report.check(f"{attack.name()}: endings", endings, is_expected, f"nothing but {sorted(attack.endings)}")
    if attack.is_the_work:
        n_waiting = found["waiting"]
        report.check(f"{attack.name()}: waiting", n_waiting, n_waiting <= MAX_QUEUE, f"{MAX_QUEUE} or fewer")


def main() -> None:
    options = arguments(__doc__, seconds=4)
    report = Report()
    with Server(options.blazr, "--max-queue", str(MAX_QUEUE), "--body-limit", str(BODY_LIMIT)) as server:
        ask(server.address, completion(prompt=[5], max_tokens=5))
        before = server.footprint_at_rest()
        for attack in ATTACKS:
            check(report, server, attack, options.seconds)
        after = server.footprint_at_rest()
        print(f"memory before and after: {before}, {after}", flush=True)
        report.equal("file descriptors", after.fds, before.fds)
        report.equal("threads", after.threads, before.threads)
        answer: Answer = ask(server.address, completion(prompt="Once upon a time", max_tokens=5, ignore_eos=True))
        report.equal("tokens of an answer afterwards", json.loads(answer.body)["usage"]["completion_tokens"], 5)
    report.end()


if __name__ == "__main__":
    main()
