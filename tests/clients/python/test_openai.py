"""The openai package, unmodified: completions and models. Retries are off: each error shows at once."""
import asyncio
import unittest

import openai
from support import ADAPTERS, CAPITAL, REVIEW, URL, main

CLIENT = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)


class Completions(unittest.TestCase):
    def test_models(self):
        listed = [model.id for model in CLIENT.models.list()]
        self.assertTrue(set(ADAPTERS) <= set(listed), listed)
        self.assertEqual(CLIENT.models.retrieve(listed[0]).id, listed[0])

    def test_adapter_by_model(self):
        reply = CLIENT.completions.create(model="sentiment", prompt=REVIEW, max_tokens=8, temperature=0)
        self.assertEqual(reply.choices[0].text, "negative")
        self.assertEqual(reply.choices[0].finish_reason, "stop")
        self.assertEqual(reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens)

    def test_stream_equals_plain(self):
        for model in ADAPTERS:
            ask = dict(model=model, prompt=CAPITAL, max_tokens=12, temperature=0)
            plain = CLIENT.completions.create(**ask).choices[0].text
            chunks = list(CLIENT.completions.create(**ask, stream=True))
            self.assertEqual("".join(chunk.choices[0].text for chunk in chunks if chunk.choices), plain)

    def test_choices_and_seed(self):
        ask = dict(model="pirate", prompt=CAPITAL, max_tokens=8, temperature=1.5, n=3, seed=11)
        first, again = (CLIENT.completions.create(**ask) for _ in range(2))
        self.assertEqual([choice.index for choice in first.choices], [0, 1, 2])
        self.assertEqual([choice.text for choice in first.choices], [choice.text for choice in again.choices])

    def test_errors(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            CLIENT.completions.create(model="nobody", prompt="x")
        self.assertEqual(caught.exception.code, "model_not_found")
        with self.assertRaises(openai.BadRequestError) as caught:
            CLIENT.completions.create(model="pirate", prompt="x", temperature=-1)
        self.assertEqual(caught.exception.param, "temperature")
        with self.assertRaises(openai.BadRequestError):
            CLIENT.completions.create(model="pirate", prompt="x", extra_body={"nonsense": 1})

    def test_async(self):
        async def ask_all():
            async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0) as client:
                create = client.completions.create
                return await asyncio.gather(
                    *(create(model=model, prompt=CAPITAL, max_tokens=8, temperature=0) for model in ADAPTERS)
                )

        for model, reply in zip(ADAPTERS, asyncio.run(ask_all())):
            alone = CLIENT.completions.create(model=model, prompt=CAPITAL, max_tokens=8, temperature=0)
            self.assertEqual(reply.choices[0].text, alone.choices[0].text)


if __name__ == "__main__":
    main()
