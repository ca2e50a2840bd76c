"""The official Python SDK against a running blazr, whose address is in BLAZR_URL."""

import asyncio
import json
import os
import threading
import urllib.request

import openai
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

URL = os.environ["BLAZR_URL"]
client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
MESSAGES = [{"role": "user", "content": "What is 27 plus 45?"}]
ANSWER = "27 plus 45 is 72."


def chat_whole() -> None:
    answer = client.chat.completions.create(model="nano", messages=MESSAGES, temperature=0)
    assert answer.choices[0].message.content == ANSWER, answer
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


def errors() -> None:
    bad = [
        (openai.BadRequestError, {"model": "nano", "temperature": 9}, "temperature"),
        (openai.BadRequestError, {"model": "nano", "tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        (openai.NotFoundError, {"model": "other"}, "model"),
    ]
    for kind, arguments, param in bad:
        try:
            client.chat.completions.create(messages=MESSAGES, **arguments)
        except kind as error:
            assert error.param == param and error.request_id, error
        else:
            raise AssertionError(f"{arguments} was taken")


def rate_limit() -> None:
    """More at once than may wait: everybody is served in full or told to come back."""
    served, refused = [], []

    def ask() -> None:
        try:
            body = {"ignore_eos": True}
            answer = client.completions.create(model="nano", prompt="Once", max_tokens=200, extra_body=body)
            served.append(answer.usage.completion_tokens)
        except openai.RateLimitError as error:
            refused.append(int(error.response.headers["retry-after"]))

    threads = [threading.Thread(target=ask) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(served) + len(refused) == 24 and set(served) == {200} and refused, (served, refused)
    assert all(1 <= seconds <= 120 for seconds in refused)


async def asynchronous() -> None:
    async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none") as asked:
        stream = await asked.chat.completions.create(model="nano", messages=MESSAGES, temperature=0, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == ANSWER


def main() -> None:
    steps = [chat_whole, chat_streamed, chat_streaming_helper, chat_logprobs, completions, raw_response, models,
             bodies_are_strictly_valid, errors, rate_limit]  # fmt: skip
    for step in steps:
        step()
        print(f"{step.__name__} ... ok", flush=True)
    asyncio.run(asynchronous())
    print(f"asynchronous ... ok\n{len(steps) + 1} passed, 0 failed", flush=True)


if __name__ == "__main__":
    main()
