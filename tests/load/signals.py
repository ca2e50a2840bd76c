"""What SIGTERM and SIGINT do: nothing new is taken in, what was is finished in full or, where the time runs out, ends
with an error that says so, and a second signal ends the process at once."""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from subprocess import TimeoutExpired

from harness import Address, Answer, Connection, Report, Server, arguments, ask, completion, endless, get, wait_for

CLIENTS = 12
TOKENS = 150
DRAIN_SECONDS = 30.0
SHORT_DRAIN_SECONDS = 0.5

PATIENCE_SECONDS = 10
# Signals are looked for every 20 ms.
AT_ONCE_SECONDS = 0.2
# Answers that are cut off have 2 s to reach their clients.
LAST_WORDS_SECONDS = 2.0
NEWCOMERS = 10


@dataclass(frozen=True)
class Client:
    """One whose request was taken in before the signal."""

    is_streamed: bool
    answer: Future[Answer]

    def ending(self) -> str:
        """How it ended, in words that name all that it was told."""
        try:
            answer = self.answer.result()
        except OSError as error:
            return f"broken: {error}"
        if answer.status != 200:
            return f"{answer.status} {answer.code()}"
        return stream_ending(answer) if self.is_streamed else whole_ending(answer)


def whole_ending(answer: Answer) -> str:
    body = answer.json()
    return f"{body['choices'][0]['finish_reason']} after {body['usage']['completion_tokens']}"


def stream_ending(answer: Answer) -> str:
    *chunks, last, done = answer.events()
    if done != "[DONE]":
        return f"no [DONE] but {done}"
    if "error" in (body := json.loads(last)):
        return f"error {body['error']['code']}, [DONE]"
    return f"{json.loads(chunks[-1])['choices'][0]['finish_reason']} after {body['usage']['completion_tokens']}, [DONE]"


FINISHED = {True: f"length after {TOKENS}, [DONE]", False: f"length after {TOKENS}"}


class Load:
    """Clients of which one is served and the others wait, every second one streamed."""

    def __init__(self, server: Server, n_clients: int, request: Callable[[bool], bytes]) -> None:
        self._pool = ThreadPoolExecutor(n_clients)
        self.clients = []
        for client in range(n_clients):
            is_streamed = client % 2 == 0
            self.clients.append(Client(is_streamed, self._pool.submit(ask, server.address, request(is_streamed))))
            if client == 0:
                wait_for("one is served", lambda: server.metrics()["blazr_running_requests"] == 1, PATIENCE_SECONDS)
        waiting = n_clients - 1
        wait_for("the others wait", lambda: server.metrics()["blazr_queue_requests"] == waiting, PATIENCE_SECONDS)

    def endings(self, is_streamed: bool) -> Counter[str]:
        return Counter(client.ending() for client in self.clients if client.is_streamed == is_streamed)

    def close(self) -> None:
        self._pool.shutdown()


def limited(is_streamed: bool) -> bytes:
    streamed = {"stream_options": {"include_usage": True}} if is_streamed else {}
    return endless(is_streamed, max_tokens=TOKENS, **streamed)


def unlimited(is_streamed: bool) -> bytes:
    return endless(is_streamed)


def check_end(report: Report, name: str, server: Server, began: float, code: int, least: float, most: float) -> None:
    """The exit code, and how many seconds after the signal it comes."""
    try:
        found = server.process.wait(DRAIN_SECONDS + LAST_WORDS_SECONDS)
    except TimeoutExpired:
        found = None
    seconds = time.monotonic() - began
    expected = f"exit code {code} after {1000 * least:.0f} to {1000 * most:.0f} ms"
    holds = found == code and least <= seconds <= most
    report.check(f"{name}: the end", f"exit code {found} after {1000 * seconds:.1f} ms", holds, expected)


def probe(address: Address, path: str) -> str:
    try:
        answer = ask(address, get(path))
        return f"{answer.status} {answer.json()['status']}"
    except OSError:
        return "no connection"


def check_refusals(report: Report, name: str, address: Address, began: float) -> None:
    """What newcomers are told while others are still served."""
    for path in ("/health/ready", "/health"):
        wait_for(f"{path} is 503", lambda: probe(address, path) == "503 draining", PATIENCE_SECONDS)
        seconds = time.monotonic() - began
        expected = f"within {1000 * AT_ONCE_SECONDS:.0f} ms"
        report.check(f"{name}: {path} is 503", f"after {1000 * seconds:.0f} ms", seconds < AT_ONCE_SECONDS, expected)
    found: Counter[str] = Counter()
    for newcomer in range(NEWCOMERS):
        answer = ask(address, limited(newcomer % 2 == 0))
        found[f"{answer.status} {answer.code()}, Retry-After {answer.headers.get('retry-after')}"] += 1
    report.equal(f"{name}: new work", dict(found), {"503 shutting_down, Retry-After 1": NEWCOMERS})
    still = {path: probe(address, path) for path in ("/health/ready", "/health")}
    report.equal(f"{name}: later", still, dict.fromkeys(still, "503 draining"))


def check_drain(report: Report, blazr: str, n_clients: int, number: signal.Signals) -> None:
    """All that was taken in is finished in full."""
    name = f"{number.name} under load"
    with Server(blazr, "--drain-timeout", str(DRAIN_SECONDS)) as server:
        load = Load(server, n_clients, limited)
        began = time.monotonic()
        server.process.send_signal(number)
        check_refusals(report, name, server.address, began)
        for is_streamed, ending in FINISHED.items():
            expected = {ending: sum(client.is_streamed == is_streamed for client in load.clients)}
            what = f"{name}: {'streamed' if is_streamed else 'whole'} answers"
            report.equal(what, dict(load.endings(is_streamed)), expected)
        check_end(report, name, server, began, 0, 0, DRAIN_SECONDS)
        load.close()


def check_second_signal(report: Report, blazr: str, first: signal.Signals, second: signal.Signals) -> None:
    name = f"{second.name} after {first.name}, with work running"
    with Server(blazr) as server:
        load = Load(server, 4, unlimited)
        server.process.send_signal(first)
        wait_for("it drains", lambda: probe(server.address, "/health") == "503 draining", PATIENCE_SECONDS)
        began = time.monotonic()
        server.process.send_signal(second)
        check_end(report, name, server, began, 128 + second, 0, AT_ONCE_SECONDS)
        load.close()


def check_cut_off(report: Report, blazr: str) -> None:
    """What takes longer than the drain ends with an error: the one that runs in its stream, the others as a 503."""
    name = f"--drain-timeout {SHORT_DRAIN_SECONDS} with endless work"
    with Server(blazr, "--drain-timeout", str(SHORT_DRAIN_SECONDS)) as server:
        load = Load(server, 4, unlimited)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        streamed = {"error shutting_down, [DONE]": 1, "503 shutting_down": 1}
        report.equal(f"{name}: streamed answers", dict(load.endings(True)), streamed)
        report.equal(f"{name}: whole answers", dict(load.endings(False)), {"503 shutting_down": 2})
        check_end(report, name, server, began, 1, SHORT_DRAIN_SECONDS, SHORT_DRAIN_SECONDS + AT_ONCE_SECONDS)
        load.close()


def check_idle(report: Report, blazr: str, number: signal.Signals, what: str, begun: bytes, limit: float) -> None:
    """Nobody is served; one connection is open on which so much was said."""
    with Server(blazr) as server:
        connection = Connection(server.address).send(begun)
        if begun.endswith(b"\r\n\r\n"):
            connection.answer()
        ask(server.address, completion(prompt=[5], max_tokens=1))
        began = time.monotonic()
        server.process.send_signal(number)
        check_end(report, f"{number.name} while {what}", server, began, 0, 0, limit)
        connection.close()


def main() -> None:
    options = arguments(__doc__, clients=CLIENTS)
    report = Report()
    for number in (signal.SIGTERM, signal.SIGINT):
        check_drain(report, options.blazr, options.clients, number)
    for first in (signal.SIGTERM, signal.SIGINT):
        for second in (signal.SIGTERM, signal.SIGINT):
            check_second_signal(report, options.blazr, first, second)
    check_cut_off(report, options.blazr)
    for number in (signal.SIGTERM, signal.SIGINT):
        check_idle(report, options.blazr, number, "idle, with a connection kept open", get("/health"), AT_ONCE_SECONDS)
    unfinished, limit = b"POST /v1/completions HTTP/1.1\r\n", LAST_WORDS_SECONDS + AT_ONCE_SECONDS
    check_idle(report, options.blazr, signal.SIGTERM, "somebody is sending headers", unfinished, limit)
    report.end()


if __name__ == "__main__":
    main()
