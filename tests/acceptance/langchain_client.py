"""LangChain's ChatOpenAI and OpenAI against a running blazr, whose address is in SERVER_URL."""

import asyncio
import os
from collections.abc import Callable

import openai
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI, OpenAI

import situations

URL = os.environ["SERVER_URL"]
QUESTION = "What is 27 plus 45?"
ANSWER = "27 plus 45 is 72."
START = "Once upon a time"


def chat_of(url: str, **options: object) -> ChatOpenAI:
    defaults = {"model": "nano", "base_url": f"{url}/v1", "api_key": "none", "temperature": 0, "max_retries": 0}
    return ChatOpenAI(**{**defaults, **options})


chat = chat_of(URL, stream_usage=True)
texts = OpenAI(model="nano", base_url=f"{URL}/v1", api_key="none", temperature=0, max_tokens=20, max_retries=0)


def chat_whole() -> None:
    answer = chat.invoke(QUESTION)
    assert answer.content == ANSWER, answer
    usage = answer.usage_metadata
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] and usage["output_tokens"] > 1, usage
    assert answer.response_metadata["finish_reason"] == "stop" and answer.response_metadata["model_name"] == "nano"


def chat_streamed() -> None:
    check_stream(list(chat.stream(QUESTION)))


def check_stream(chunks: list[AIMessageChunk]) -> None:
    """Put together, the pieces are the whole answer, usage included."""
    together, whole = chunks[0], chat.invoke(QUESTION)
    for chunk in chunks[1:]:
        together += chunk
    assert together.content == ANSWER and len(chunks) > 5, chunks
    assert together.usage_metadata == whole.usage_metadata, (together.usage_metadata, whole.usage_metadata)
    assert together.response_metadata["finish_reason"] == "stop", together


def chat_with_a_system_prompt() -> None:
    prompt = [SystemMessage("Answer in capital letters."), HumanMessage("Hi, I am Tom.")]
    assert "TOM" in chat.invoke(prompt).content


def chain() -> None:
    template = ChatPromptTemplate.from_messages([("user", "What is {a} plus {b}?")])
    asked = template | chat | StrOutputParser()
    assert asked.batch([{"a": 27, "b": 45}, {"a": 11, "b": 5}]) == [ANSWER, "11 plus 5 is 16."]


def chat_logprobs() -> None:
    content = chat.bind(logprobs=True, top_logprobs=2).invoke(QUESTION).response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in content) == ANSWER and len(content[0]["top_logprobs"]) == 2, content


def completions() -> None:
    generated = texts.generate([START, "Tom was"])
    (first,), (second,) = generated.generations
    assert first.text.startswith(", there was") and second.text, generated
    usage = generated.llm_output["token_usage"]
    assert usage["completion_tokens"] == 40 and usage["total_tokens"] == usage["prompt_tokens"] + 40, usage
    assert "".join(texts.stream(START)) == first.text == texts.invoke(START)


def asynchronous() -> None:
    async def ask() -> None:
        assert (await chat.ainvoke(QUESTION)).content == ANSWER
        check_stream([chunk async for chunk in chat.astream(QUESTION)])
        assert "".join([piece async for piece in texts.astream(START)]) == await texts.ainvoke(START)

    asyncio.run(ask())


def refused(kind: type[Exception], ask: Callable[[], object]) -> None:
    """LangChain raises what the SDK below it raises, or a class of its own that is derived from that."""
    try:
        ask()
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")


def bad_requests() -> None:
    refused(openai.BadRequestError, lambda: chat_of(URL, temperature=9).invoke(QUESTION))
    refused(openai.BadRequestError, lambda: texts.bind(max_tokens=-5).invoke(START))


def context_overflow() -> None:
    """LangChain looks for it in the words of the message."""
    refused(ContextOverflowError, lambda: chat.invoke("too long " * 5000))


def not_found() -> None:
    refused(openai.NotFoundError, lambda: chat_of(URL, model="other").invoke(QUESTION))


def authentication() -> None:
    with situations.locked() as url:
        refused(openai.AuthenticationError, lambda: chat_of(url).invoke(QUESTION))
        refused(openai.AuthenticationError, lambda: list(chat_of(url).stream(QUESTION)))
        assert chat_of(url, api_key=situations.KEY).invoke(QUESTION).content == ANSWER


def rate_limit() -> None:
    with situations.full() as (url, _):
        refused(openai.RateLimitError, lambda: chat_of(url).invoke(QUESTION))
        refused(openai.RateLimitError, lambda: asyncio.run(chat_of(url).ainvoke(QUESTION)))


def broken_stream() -> None:
    long = {"max_tokens": 4000, "extra_body": {"ignore_eos": True}}
    with situations.impatient() as url:
        refused(openai.APIError, lambda: list(chat_of(url, **long).stream(QUESTION)))


def main() -> None:
    steps = [chat_whole, chat_streamed, chat_with_a_system_prompt, chain, chat_logprobs, completions, asynchronous,
             bad_requests, not_found, authentication, rate_limit, broken_stream, context_overflow]  # fmt: skip
    for step in steps:
        step()
        print(f"{step.__name__} ... ok", flush=True)
    print(f"{len(steps)} passed, 0 failed")


if __name__ == "__main__":
    main()
