"""lorax-client's AsyncClient, unmodified."""
import asyncio
import json
import unittest

from lorax import AsyncClient
from lorax.errors import GenerationError, ValidationError
from lorax.types import MergedAdapters
from support import ADAPTERS, CAPITAL, URL, main


class Generate(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.client = AsyncClient(URL, timeout=2)

    async def test_all_adapters_at_once_answer_as_alone(self):
        names = [None, *ADAPTERS]
        alone = [await self.client.generate(CAPITAL, adapter_id=name, max_new_tokens=12) for name in names]
        together = await asyncio.gather(*(self.client.generate(CAPITAL, adapter_id=name, max_new_tokens=12) for name in names))
        self.assertEqual([reply.details.tokens for reply in together], [reply.details.tokens for reply in alone])

    async def test_streams_at_once_equal_plain_answers(self):
        async def read(name):
            return [event async for event in self.client.generate_stream(CAPITAL, adapter_id=name, max_new_tokens=12)]

        names = [None, *ADAPTERS]
        for name, events in zip(names, await asyncio.gather(*map(read, names))):
            plain = await self.client.generate(CAPITAL, adapter_id=name, max_new_tokens=12)
            self.assertEqual([event.token for event in events], plain.details.tokens)
            self.assertEqual(events[-1].generated_text, plain.generated_text)

    async def test_a_stream_may_be_left(self):
        async for event in self.client.generate_stream(CAPITAL, max_new_tokens=500, ignore_eos_token=True):
            self.assertIsNotNone(event.token.text)
            break
        self.assertEqual((await self.client.generate(CAPITAL, max_new_tokens=1)).details.generated_tokens, 1)

    async def test_every_parameter_that_shapes_the_reply(self):
        """Those of the synchronous suite, once each, all at the same time."""
        city = {"type": "object", "properties": {"city": {"enum": ["Paris", "Oslo"]}}, "required": ["city"]}
        merged = MergedAdapters(ids=["sql", "sql"], weights=[0.5, 0.5], merge_strategy="linear", density=0.0)
        prompt, best, alternatives, schema, mixed, local = await asyncio.gather(
            self.client.generate(CAPITAL, decoder_input_details=True, max_new_tokens=2),
            self.client.generate(CAPITAL, best_of=2, temperature=1.5, max_new_tokens=6),
            self.client.generate(CAPITAL, adapter_id="sql", return_k_alternatives=2, max_new_tokens=2),
            self.client.generate(CAPITAL, response_format={"type": "json_object", "schema": city}, max_new_tokens=40),
            self.client.generate(CAPITAL, merged_adapters=merged, max_new_tokens=4),
            self.client.generate(CAPITAL, adapter_id="sql", adapter_source="local", max_new_tokens=4),
        )
        self.assertEqual(len(prompt.details.prefill), prompt.details.prompt_tokens)
        self.assertEqual(len(best.details.best_of_sequences), 1)
        self.assertEqual([len(token.alternative_tokens) for token in alternatives.details.tokens], [2, 2])
        self.assertIn(json.loads(schema.generated_text)["city"], ["Paris", "Oslo"])
        self.assertEqual(mixed.details.generated_tokens, 4)
        self.assertEqual(local.details.tokens[:2], [token.copy(update={"alternative_tokens": None}) for token in alternatives.details.tokens])

    async def test_errors(self):
        for error, parameters in [
            (ValidationError, dict(max_new_tokens=0)),
            (GenerationError, dict(adapter_id="nobody")),
        ]:
            with self.assertRaises(error):
                await self.client.generate(CAPITAL, **parameters)
            with self.assertRaises(error):
                async for _ in self.client.generate_stream(CAPITAL, **parameters):
                    pass


if __name__ == "__main__":
    main()
