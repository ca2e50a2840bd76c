"""More clients at once than may wait: each is served in full or told when to come back, nothing hangs, memory stays
where it was after the first round, and who came first is served first."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from harness import Address, Answer, Connection, Report, Server, arguments, completion

MAX_QUEUE = 4
TOKENS = 60
TIMEOUT_SECONDS = 60
LEAST_RETRY_SECONDS, MOST_RETRY_SECONDS = 1, 120

# One request takes longer than the next one needs to arrive.
ORDERED_CLIENTS = 40
ARRIVE_EVERY_SECONDS = 0.01


@dataclass(frozen=True)
class Outcome:
    """What became of one client."""

    client: int
    ended: float
    answer: Answer | None

    def is_served(self) -> bool:
        return self.answer is not None and self.answer.status == 200

    def complaint(self) -> str | None:
        """What is wrong with it."""
        if self.answer is None:
            return f"no answer within {TIMEOUT_SECONDS} s, or a broken connection"
        if self.answer.status == 429:
            return wrong_refusal(self.answer)
        if self.answer.status != 200:
            return f"status {self.answer.status}"
        return wrong_stream(self.answer) if is_streamed(self.client) else wrong_whole(self.answer)


def wrong_refusal(answer: Answer) -> str | None:
    seconds = answer.headers.get("retry-after", "none")
    is_good = seconds.isdigit() and LEAST_RETRY_SECONDS <= int(seconds) <= MOST_RETRY_SECONDS
    if not is_good or answer.code() != "queue_full":
        return f"429 with Retry-After {seconds} and code {answer.code()}"
    return None


def wrong_whole(answer: Answer) -> str | None:
    body = answer.json()
    found = body["choices"][0]["finish_reason"], body["usage"]["completion_tokens"]
    return None if found == ("length", TOKENS) else f"ended with {found}"


def wrong_stream(answer: Answer) -> str | None:
    *chunks, usage, done = answer.events()
    reasons = [reason for chunk in map(json.loads, chunks) for choice in chunk["choices"]
               if (reason := choice["finish_reason"])]  # fmt: skip
    found = reasons, json.loads(usage)["usage"]["completion_tokens"], done
    return None if found == (["length"], TOKENS, "[DONE]") else f"ended with {found}"


def is_streamed(client: int) -> bool:
    return client % 2 == 0


def request(client: int) -> bytes:
    streamed = {"stream": True, "stream_options": {"include_usage": True}} if is_streamed(client) else {}
    return completion(prompt="Once upon a time", max_tokens=TOKENS, ignore_eos=True, **streamed)


def start(address: Address, client: int) -> Connection:
    """One client; every second one reads a stream."""
    return Connection(address, TIMEOUT_SECONDS).send(request(client))


def end(connection: Connection, client: int) -> Outcome:
    try:
        answer = connection.answer()
    except OSError:
        answer = None
    ended = time.monotonic()
    connection.close()
    return Outcome(client, ended, answer)


def at_once(pool: ThreadPoolExecutor, address: Address, n_clients: int) -> list[Outcome]:
    barrier = threading.Barrier(n_clients)

    def run(client: int) -> Outcome:
        barrier.wait()
        try:
            connection = start(address, client)
        except OSError:
            return Outcome(client, time.monotonic(), None)
        return end(connection, client)

    return list(pool.map(run, range(n_clients)))


def one_by_one(pool: ThreadPoolExecutor, address: Address) -> list[Outcome]:
    """Each has sent its request before the pause begins after which the next one comes."""
    outcomes = []
    for client in range(ORDERED_CLIENTS):
        outcomes.append(pool.submit(end, start(address, client), client))
        time.sleep(ARRIVE_EVERY_SECONDS)
    return [outcome.result() for outcome in outcomes]


def check_rounds(report: Report, blazr: str, n_clients: int, n_rounds: int) -> None:
    with Server(blazr, "--max-queue", str(MAX_QUEUE)) as server, ThreadPoolExecutor(n_clients) as pool:
        outcomes = at_once(pool, server.address, n_clients)
        first = server.footprint_at_rest()
        began = time.monotonic()
        for _ in range(n_rounds - 1):
            outcomes += at_once(pool, server.address, n_clients)
        seconds = time.monotonic() - began
        report.growth(first, server.footprint_at_rest())
    n_served = sum(outcome.is_served() for outcome in outcomes)
    complaints = sorted({complaint for outcome in outcomes if (complaint := outcome.complaint())})
    found = f"{n_served} served, {len(outcomes) - n_served} not, {1000 * seconds / (n_rounds - 1):.0f} ms a round"
    report.check(f"{n_rounds} rounds of {n_clients} clients", f"{found} {complaints or ''}", not complaints,
                 "all served in full or told 429 with Retry-After")  # fmt: skip
    least = n_rounds * MAX_QUEUE
    report.check("served", n_served, least <= n_served < len(outcomes), f"{least} or more, and fewer than all")


def check_order(report: Report, blazr: str) -> None:
    with Server(blazr, "--max-queue", str(ORDERED_CLIENTS)) as server, ThreadPoolExecutor(ORDERED_CLIENTS) as pool:
        outcomes = one_by_one(pool, server.address)
    complaints = sorted({complaint for outcome in outcomes if (complaint := outcome.complaint())})
    report.equal(f"{ORDERED_CLIENTS} clients one after the other, complaints", complaints, [])
    order = [outcome.client for outcome in sorted(outcomes, key=lambda outcome: outcome.ended)]
    report.equal("the order in which they were served", order, list(range(ORDERED_CLIENTS)))


def main() -> None:
    options = arguments(__doc__, clients=64, rounds=30)
    report = Report()
    check_rounds(report, options.blazr, options.clients, options.rounds)
    check_order(report, options.blazr)
    report.end()


if __name__ == "__main__":
    main()
