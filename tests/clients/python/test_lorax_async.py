"""lorax-client's AsyncClient, unmodified."""
import asyncio
import unittest

from lorax import AsyncClient
from lorax.errors import GenerationError, ValidationError
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
