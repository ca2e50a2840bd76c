"""The official Python SDK against a running blazr, whose address is in SERVER_URL."""

import asyncio
import json
import os
import threading
import urllib.request
from collections.abc import Awaitable, Callable

import openai
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

import situations

URL = os.environ["SERVER_URL"]
MESSAGES = [{"role": "user", "content": "What is 27 plus 45?"}]
ANSWER = "27 plus 45 is 72."
LONG = {"model": "nano", "prompt": "Once", "max_tokens": 4000, "extra_body": {"ignore_eos": True}}


def client_of(url: str, **options: object) -> openai.OpenAI:
    return openai.OpenAI(**{"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0, **options})


client = client_of(URL)


def ask(asked: openai.OpenAI) -> ChatCompletion:
    answer = asked.chat.completions.create(model="nano", messages=MESSAGES, temperature=0)
    assert answer.choices[0].message.content == ANSWER, answer
    return answer


def chat_whole() -> None:
    answer = ask(client)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def chat_streamed() -> None:
    chunks = list(client.chat.completions.create(model="nano", messages=MESSAGES, temperature=0, stream=True,
                                                 stream_options={"include_usage": True}))  # fmt: skip
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == ANSWER, text
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].usage.completion_tokens > 0


def chat_streaming_helper() -> None:
    with client.chat.completions.stream(model="nano", messages=MESSAGES, temperature=0) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.content == ANSWER


def chat_logprobs() -> None:
    answer = client.chat.completions.create(model="nano", messages=MESSAGES, temperature=0, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in content).decode() == ANSWER
    for token in content:
        assert token.logprob in [other.logprob for other in token.top_logprobs if other.token == token.token]


def completions() -> None:
    whole = client.completions.create(model="nano", prompt="Once upon a time", seed=1, n=2, logprobs=2, echo=True)
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert all(choice.text.startswith("Once upon a time") for choice in whole.choices)
    logprobs = whole.choices[0].logprobs
    assert logprobs.token_logprobs[0] is None and len(logprobs.tokens) == len(logprobs.text_offset)
    pieces = client.completions.create(model="nano", prompt="Once upon a time", seed=1, stream=True)
    assert "Once upon a time" + "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text


def raw_response() -> None:
    raw = client.chat.completions.with_raw_response.create(model="nano", messages=MESSAGES, temperature=0)
    assert raw.headers["x-request-id"] and raw.parse().choices[0].message.content == ANSWER


def streaming_response() -> None:
    """The body as it comes, with the headers at hand before its end."""
    create = client.chat.completions.with_streaming_response.create
    with create(model="nano", messages=MESSAGES, temperature=0, stream=True) as response:
        assert response.headers["content-type"].startswith("text/event-stream"), response.headers
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]", lines


def models() -> None:
    assert [model.id for model in client.models.list()] == ["nano"]
    assert client.models.retrieve("nano").object == "model"


def bodies_are_strictly_valid() -> None:
    """Every body and chunk, against the SDK's own types without conversions."""
    ask = {"model": "nano", "messages": MESSAGES, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    ChatCompletion.model_validate_json(post("chat/completions", ask), strict=True)
    for line in events(post("chat/completions", {**ask, "stream": True, "stream_options": {"include_usage": True}})):
        ChatCompletionChunk.model_validate_json(line, strict=True)
    Completion.model_validate_json(post("completions", {"model": "nano", "prompt": "Once", "logprobs": 1}), strict=True)


def post(path: str, body: dict) -> bytes:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{URL}/v1/{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as response:
        return response.read()


def events(stream: bytes) -> list[str]:
    *data, done = [line.removeprefix("data: ") for line in stream.decode().split("\n\n") if line]
    assert done == "[DONE]"
    return data


def refused(kind: type[openai.APIError], request: Callable[[], object], **expected: object) -> openai.APIError:
    """The error that is raised, which is of this very class and has these attributes."""
    try:
        request()
    except openai.APIError as error:
        found = {name: getattr(error, name) for name in expected}
        assert type(error) is kind and found == expected, (type(error), error, found)
        return error
    raise AssertionError(f"no {kind.__name__}")


def bad_requests() -> None:
    chat, texts = client.chat.completions.create, client.completions.create
    tool = {"type": "function", "function": {"name": "f"}}
    bad: list[tuple[Callable[..., object], dict, dict]] = [
        (chat, {"messages": MESSAGES, "temperature": 9}, {"param": "temperature"}),
        (chat, {"messages": MESSAGES, "tools": [tool]}, {"param": "tools"}),
        (chat, {"messages": []}, {"param": "messages"}),
        (texts, {"prompt": [0] * 5000}, {"param": "prompt", "code": "context_length_exceeded"}),
    ]
    for create, arguments, expected in bad:
        error = refused(openai.BadRequestError, lambda: create(model="nano", **arguments), status_code=400, **expected)
        assert error.request_id and error.type == "invalid_request_error", error


def not_found() -> None:
    other = {"code": "model_not_found", "param": "model"}
    refused(openai.NotFoundError, lambda: client.chat.completions.create(model="other", messages=MESSAGES), **other)
    refused(openai.NotFoundError, lambda: client.models.retrieve("some/other"), code="model_not_found")
    refused(openai.NotFoundError, lambda: client.embeddings.create(model="nano", input="Once"), code="not_found")


def statuses_without_a_class() -> None:
    """Whether the body was read or not, the next request gets through."""
    large, plain = {**LONG, "prompt": "a" * 5_000_000}, {**LONG, "extra_headers": {"Content-Type": "text/plain"}}
    bad: list[tuple[Callable[[], object], int, str]] = [
        (lambda: client.get("/completions", cast_to=object), 405, "method_not_allowed"),
        (lambda: client.put("/completions", cast_to=object, body={"prompt": "Once"}), 405, "method_not_allowed"),
        (lambda: client.completions.create(**large), 413, "request_too_large"),
        (lambda: client.completions.create(**plain), 415, "unsupported_media_type"),
    ]
    for create, status, code in bad:
        for _ in range(5):
            refused(openai.APIStatusError, create, status_code=status, code=code)
            ask(client)


def authentication() -> None:
    with situations.locked() as url:
        for key in ["none", f"{situations.KEY}x"]:
            error = refused(openai.AuthenticationError, lambda: ask(client_of(url, api_key=key)), code="invalid_api_key")
            assert error.response.headers["www-authenticate"].startswith("Bearer"), error.response.headers
        ask(client_of(url, api_key=situations.KEY))


def full_queue() -> None:
    """Told to come back later, the SDK comes back by itself; there is a place by then."""
    with situations.full() as (url, clear):
        error = refused(openai.RateLimitError, lambda: ask(client_of(url)), code="queue_full", type="rate_limit_error")
        assert 1 <= int(error.response.headers["retry-after"]) <= 120, error.response.headers
        threading.Timer(0.3, clear).start()
        again = client_of(url, max_retries=5).chat.completions.with_raw_response
        answer = again.create(model="nano", messages=MESSAGES, temperature=0)
        assert answer.retries_taken == 1 and answer.parse().choices[0].message.content == ANSWER, answer.retries_taken


def server_timeouts() -> None:
    """Both are worth another try, and the SDK would make one."""
    failed = {"type": "server_error"}
    with situations.busy("--queue-timeout", "0.1") as url:
        error = refused(openai.InternalServerError, lambda: ask(client_of(url)), status_code=503, **failed)
        assert error.code == "queue_timeout" and int(error.response.headers["retry-after"]) >= 1, error
    with situations.impatient() as url:
        asked = client_of(url).completions
        refused(openai.InternalServerError, lambda: asked.create(**LONG), status_code=504, **failed)


def broken_stream() -> None:
    """What has come is kept; the end is an error and not silence."""
    pieces = []
    with situations.impatient() as url:
        stream = client_of(url).completions.create(**LONG, stream=True)
        refused(openai.APIError, lambda: pieces.extend(piece.choices[0].text for piece in stream), type="server_error")
    assert pieces


def unreachable() -> None:
    with situations.locked() as url:
        pass
    refused(openai.APIConnectionError, lambda: ask(client_of(url)))
    refused(openai.APITimeoutError, lambda: client_of(URL, timeout=0.2).completions.create(**LONG))


def rate_limit() -> None:
    """More at once than may wait: everybody is served in full or told to come back."""
    served, turned_away = [], []

    def ask_for_much() -> None:
        try:
            body = {"ignore_eos": True}
            answer = client.completions.create(model="nano", prompt="Once", max_tokens=200, extra_body=body)
            served.append(answer.usage.completion_tokens)
        except openai.RateLimitError as error:
            turned_away.append(int(error.response.headers["retry-after"]))

    threads = [threading.Thread(target=ask_for_much) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(served) + len(turned_away) == 24 and set(served) == {200} and turned_away, (served, turned_away)
    assert all(1 <= seconds <= 120 for seconds in turned_away)


def asynchronous() -> None:
    asyncio.run(asynchronous_answers())
    asyncio.run(asynchronous_errors())


async def asynchronous_answers() -> None:
    question: dict = {"model": "nano", "messages": MESSAGES, "temperature": 0}
    async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none") as asked:
        chat = asked.chat.completions
        whole = await chat.with_raw_response.create(**question)
        assert whole.parse().choices[0].message.content == ANSWER
        stream = await chat.create(**question, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == ANSWER
        async with chat.stream(**question) as events:
            assert (await events.get_final_completion()).choices[0].message.content == ANSWER
        async with chat.with_streaming_response.create(**question) as response:
            assert (await response.parse()).choices[0].message.content == ANSWER


async def asynchronous_errors() -> None:
    long: dict = {**LONG, "timeout": 0.2}
    async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0) as asked:
        await refused_later(openai.APITimeoutError, asked.completions.create(**long))
        await refused_later(openai.BadRequestError, asked.completions.create(model="nano", prompt="Once", max_tokens=-1))
        with situations.locked() as locked, situations.full() as (full, _):
            for kind, url in [(openai.AuthenticationError, locked), (openai.RateLimitError, full)]:
                at = asked.with_options(base_url=f"{url}/v1")
                await refused_later(kind, at.completions.create(model="nano", prompt="Once"))


async def refused_later(kind: type[openai.APIError], answer: Awaitable[object]) -> None:
    try:
        await answer
    except openai.APIError as error:
        assert type(error) is kind, (type(error), error)
    else:
        raise AssertionError(f"no {kind.__name__}")


def main() -> None:
    steps = [chat_whole, chat_streamed, chat_streaming_helper, chat_logprobs, completions, raw_response,
             streaming_response, models, bodies_are_strictly_valid, bad_requests, not_found, statuses_without_a_class,
             authentication, rate_limit, full_queue, server_timeouts, broken_stream, unreachable, asynchronous]  # fmt: skip
    for step in steps:
        step()
        print(f"{step.__name__} ... ok", flush=True)
    print(f"{len(steps)} passed, 0 failed", flush=True)


if __name__ == "__main__":
    main()
