"""LiteLLM against a running blazr, whose address is in SERVER_URL."""

import asyncio
import os
from collections.abc import Callable

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from litellm.exceptions import MidStreamFallbackError

import situations

litellm.suppress_debug_info = True
URL = os.environ["SERVER_URL"]
MESSAGES = [{"role": "user", "content": "What is 27 plus 45?"}]
ANSWER = "27 plus 45 is 72."
START = "Once upon a time"


def at(url: str, **options: object) -> dict:
    """What a call needs to reach the server."""
    return {"model": "openai/nano", "api_base": f"{url}/v1", "api_key": "none", "max_retries": 0, **options}


def question(url: str, **options: object) -> dict:
    return at(url, messages=MESSAGES, **{"temperature": 0, **options})


def text(**options: object) -> dict:
    return at(URL, model="text-completion-openai/nano", prompt=START, temperature=0, max_tokens=20, **options)


def chat_whole() -> None:
    answer = litellm.completion(**question(URL))
    assert answer.choices[0].message.content == ANSWER and answer.choices[0].finish_reason == "stop", answer
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens, answer.usage


def chat_streamed() -> None:
    chunks = list(litellm.completion(**question(URL), stream=True, stream_options={"include_usage": True}))
    check_stream(chunks)


def check_stream(chunks: list[litellm.ModelResponseStream]) -> None:
    together = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    whole = litellm.completion(**question(URL))
    assert together.choices[0].message.content == ANSWER and len(chunks) > 5, chunks
    assert together.usage.total_tokens == whole.usage.total_tokens, (together.usage, whole.usage)
    assert together.choices[0].finish_reason == "stop", together


def chat_logprobs() -> None:
    answer = litellm.completion(**question(URL), logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert "".join(token.token for token in content) == ANSWER and len(content[0].top_logprobs) == 2, content


def completions() -> None:
    whole = litellm.text_completion(**text())
    assert whole.choices[0].text.startswith(", there was") and whole.usage.completion_tokens == 20, whole
    pieces = litellm.text_completion(**text(), stream=True)
    assert "".join(piece.choices[0].text or "" for piece in pieces) == whole.choices[0].text


def asynchronous() -> None:
    async def ask() -> None:
        answer = await litellm.acompletion(**question(URL))
        assert answer.choices[0].message.content == ANSWER, answer
        stream = await litellm.acompletion(**question(URL), stream=True, stream_options={"include_usage": True})
        check_stream([chunk async for chunk in stream])
        whole = await litellm.atext_completion(**text())
        assert whole.choices[0].text == litellm.text_completion(**text()).choices[0].text

    asyncio.run(ask())


def refused(kind: type[Exception], ask: Callable[[], object]) -> None:
    try:
        ask()
    except kind as error:
        assert type(error) is kind, (type(error), error)
        return
    raise AssertionError(f"no {kind.__name__}")


def bad_requests() -> None:
    refused(litellm.BadRequestError, lambda: litellm.completion(**question(URL, temperature=9)))
    refused(litellm.BadRequestError, lambda: asyncio.run(litellm.acompletion(**question(URL, temperature=9))))
    refused(litellm.BadRequestError, lambda: litellm.text_completion(**text(stop=[1])))


def context_overflow() -> None:
    """LiteLLM looks for it in the words of the message."""
    long = [{"role": "user", "content": "too long " * 5000}]
    refused(litellm.ContextWindowExceededError, lambda: litellm.completion(**at(URL, messages=long)))


def not_found() -> None:
    refused(litellm.NotFoundError, lambda: litellm.completion(**question(URL, model="openai/other")))


def authentication() -> None:
    with situations.locked() as url:
        refused(litellm.AuthenticationError, lambda: litellm.completion(**question(url)))
        refused(litellm.AuthenticationError, lambda: asyncio.run(litellm.acompletion(**question(url))))
        answer = litellm.completion(**question(url, api_key=situations.KEY))
        assert answer.choices[0].message.content == ANSWER, answer


def rate_limit() -> None:
    with situations.full() as (url, _):
        refused(litellm.RateLimitError, lambda: litellm.completion(**question(url)))
        refused(litellm.RateLimitError, lambda: asyncio.run(litellm.acompletion(**question(url))))


def server_errors() -> None:
    """What takes too long is a 504 before the first token, and the end of the stream after it."""
    long = {"max_tokens": 4000, "extra_body": {"ignore_eos": True}}
    with situations.busy("--queue-timeout", "0.1") as url:
        refused(litellm.ServiceUnavailableError, lambda: litellm.completion(**question(url)))
    with situations.impatient() as url:
        refused(litellm.Timeout, lambda: litellm.completion(**question(url, **long)))
        refused(MidStreamFallbackError, lambda: list(litellm.completion(**question(url, **long), stream=True)))


def main() -> None:
    steps = [chat_whole, chat_streamed, chat_logprobs, completions, asynchronous, bad_requests, not_found,
             authentication, rate_limit, server_errors, context_overflow]  # fmt: skip
    for step in steps:
        step()
        print(f"{step.__name__} ... ok", flush=True)
    print(f"{len(steps)} passed, 0 failed")


if __name__ == "__main__":
    main()
