"""The openai package, unmodified: chats by the synchronous and the asyncio client, streams, tools, parsed answers."""
import asyncio
import json
import unittest
from typing import Annotated, Literal

import openai
from pydantic import BaseModel, Field
from support import ADAPTERS, URL, main, until_idle, until_running

OPTIONS = dict(base_url=f"{URL}/v1", api_key="none", max_retries=0)
CLIENT = openai.OpenAI(**OPTIONS)
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
MODELS = ["", *ADAPTERS]


class City(BaseModel):
    name: Literal["Paris", "Oslo"]
    people: Annotated[int, Field(ge=1, le=9999)]


class Weather(BaseModel):
    """The weather in a city."""

    city: Literal["Paris", "Oslo"]
    days: Annotated[int, Field(ge=1, le=9)]


TOOL = openai.pydantic_function_tool(Weather)
FORCED = dict(tools=[TOOL], tool_choice="required", parallel_tool_calls=False, seed=4)


def ask(model: str = "", **fields) -> dict:
    return dict(model=model, messages=MESSAGES, temperature=0, max_tokens=12, **fields)


class Synchronous(unittest.TestCase):
    def test_plain_and_streamed(self):
        base = CLIENT.models.list().data[0].id
        for model in ["", f"{base}:pirate"]:
            plain = CLIENT.chat.completions.create(**ask(model))
            chunks = list(CLIENT.chat.completions.create(**ask(model), stream=True, stream_options={"include_usage": True}))
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            self.assertEqual(text, plain.choices[0].message.content)
            self.assertEqual(chunks[-1].usage.completion_tokens, plain.usage.completion_tokens)
            self.assertEqual(plain.model, "pirate" if model else base)

    def test_choices_stop_and_logprobs(self):
        sampled = dict(model="pirate", messages=MESSAGES, n=2, seed=2**64 - 1, temperature=1.5, max_tokens=8)
        first, again = (CLIENT.chat.completions.create(**sampled) for _ in range(2))
        self.assertEqual([choice.message.content for choice in first.choices], [choice.message.content for choice in again.choices])
        [choice] = CLIENT.chat.completions.create(**ask("pirate", logprobs=True, top_logprobs=2)).choices
        for token in choice.logprobs.content:
            self.assertEqual((token.top_logprobs[0].token, len(token.top_logprobs)), (token.token, 2))
        stop = choice.message.content[3:6]
        [stopped] = CLIENT.chat.completions.create(**ask("pirate", stop=[stop])).choices
        self.assertEqual(stopped.message.content, choice.message.content.split(stop)[0])

    def test_parsed_answer(self):
        reply = CLIENT.chat.completions.parse(model="sql", messages=MESSAGES, response_format=City, seed=1)
        self.assertIsInstance(reply.choices[0].message.parsed, City)
        with CLIENT.chat.completions.stream(model="sql", messages=MESSAGES, response_format=City, seed=1) as stream:
            for _ in stream:
                pass
            self.assertEqual(stream.get_final_completion().choices[0].message.parsed, reply.choices[0].message.parsed)

    def test_a_round_of_tools(self):
        reply = CLIENT.chat.completions.parse(model="pirate", messages=MESSAGES, **FORCED)
        self.assertEqual(reply.choices[0].finish_reason, "tool_calls")
        message = reply.choices[0].message
        [call] = message.tool_calls
        self.assertIsInstance(call.function.parsed_arguments, Weather)
        # The package's own message goes back with what it added.
        result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
        after = CLIENT.chat.completions.create(model="pirate", messages=[*MESSAGES, message, result], max_tokens=4)
        self.assertGreater(after.usage.prompt_tokens, reply.usage.prompt_tokens)
        text = ""
        for chunk in CLIENT.chat.completions.create(model="pirate", messages=MESSAGES, stream=True, **FORCED):
            for delta in chunk.choices[0].delta.tool_calls or []:
                text += delta.function.arguments or ""
        self.assertEqual(json.loads(text), json.loads(call.function.arguments))

    def test_errors(self):
        cases = [
            (openai.NotFoundError, "model_not_found", "model", dict(model="nobody")),
            (openai.BadRequestError, "invalid_value", "temperature", dict(temperature=-1)),
            (openai.BadRequestError, "unknown_parameter", "nonsense", dict(extra_body={"nonsense": 1})),
            (openai.BadRequestError, "unsupported_parameter", "tools", dict(tools=[TOOL])),
        ]
        for error, code, param, fields in cases:
            for stream in (False, True):
                with self.assertRaises(error) as caught:
                    CLIENT.chat.completions.create(**{**ask(), **fields}, stream=stream)
                self.assertEqual((caught.exception.code, caught.exception.param), (code, param))


class Asynchronous(unittest.IsolatedAsyncioTestCase):
    async def test_all_models_at_once_answer_as_alone(self):
        async with openai.AsyncOpenAI(**OPTIONS) as client:

            async def read(model: str) -> str:
                text = ""
                async for chunk in await client.chat.completions.create(**ask(model), stream=True):
                    text += chunk.choices[0].delta.content or ""
                return text

            together = await asyncio.gather(*map(read, MODELS))
        for model, text in zip(MODELS, together):
            self.assertEqual(text, CLIENT.chat.completions.create(**ask(model)).choices[0].message.content, model)

    async def test_parsed_answers(self):
        async with openai.AsyncOpenAI(**OPTIONS) as client:
            create = client.chat.completions.parse(model="pirate", messages=MESSAGES, response_format=City, seed=2)
            call = client.chat.completions.parse(model="sql", messages=MESSAGES, **FORCED)
            city, weather = await asyncio.gather(create, call)
        self.assertIsInstance(city.choices[0].message.parsed, City)
        self.assertIsInstance(weather.choices[0].message.tool_calls[0].function.parsed_arguments, Weather)

    async def test_a_cancelled_call_and_a_stream_that_is_left(self):
        endless = dict(model="sql", messages=MESSAGES, max_tokens=500, extra_body={"ignore_eos": True})
        async with openai.AsyncOpenAI(**OPTIONS) as client:
            call = asyncio.create_task(client.chat.completions.create(**endless))
            await asyncio.to_thread(until_running, 1)
            call.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await call
            await asyncio.to_thread(until_idle)
            async with await client.chat.completions.create(**endless, stream=True) as stream:
                async for _ in stream:
                    break
            await asyncio.to_thread(until_idle)


if __name__ == "__main__":
    main()
