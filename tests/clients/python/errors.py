"""What lorax-client and openai raise at a server with keys, a full queue, and a drain. `errors.test.ts` brings that about."""
import asyncio
import os
import unittest

import openai
from lorax import AsyncClient, Client
from lorax.errors import OverloadedError, ShardNotReadyError, UnknownError
from support import URL, main

KEY = os.environ["CLIENTS_KEY"]
WRONG = f"lmx_{'0' * 43}"


class Case(unittest.TestCase):
    def lorax_raises(self, error, message: str, key: str = KEY, **parameters):
        """By both clients, plain and streamed."""
        headers = {"authorization": f"Bearer {key}"}
        asks = dict(max_new_tokens=1, **parameters)

        async def read():
            async for _ in AsyncClient(URL, headers=headers).generate_stream("hi", **asks):
                pass

        for ask in [
            lambda: Client(URL, headers=headers).generate("hi", **asks),
            lambda: list(Client(URL, headers=headers).generate_stream("hi", **asks)),
            lambda: asyncio.run(AsyncClient(URL, headers=headers).generate("hi", **asks)),
            lambda: asyncio.run(read()),
        ]:
            with self.assertRaisesRegex(error, message):
                ask()

    def openai_raises(self, error, code: str, key: str = KEY, model: str = "sql"):
        client = openai.OpenAI(base_url=f"{URL}/v1", api_key=key, max_retries=0)
        for create in [
            lambda: client.completions.create(model=model, prompt="hi", max_tokens=1),
            lambda: client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}], stream=True),
        ]:
            with self.assertRaises(error) as caught:
                create()
            self.assertEqual(caught.exception.code, code)


class Keys(Case):
    def test_a_key_that_opens(self):
        reply = Client(URL, headers={"authorization": f"Bearer {KEY}"}).generate("hi", adapter_id="sql", max_new_tokens=1)
        self.assertEqual(reply.details.generated_tokens, 1)

    def test_wrong_key(self):
        self.lorax_raises(UnknownError, "^Error status 401: ", key=WRONG)
        self.openai_raises(openai.AuthenticationError, "invalid_api_key", key=WRONG)

    def test_adapter_that_the_key_does_not_open(self):
        self.lorax_raises(ShardNotReadyError, "pirate", adapter_id="pirate")
        self.openai_raises(openai.PermissionDeniedError, "model_not_allowed", model="pirate")


class Full(Case):
    def test_overloaded(self):
        self.lorax_raises(OverloadedError, "^Model is overloaded$")
        self.openai_raises(openai.RateLimitError, "queue_full")


class Draining(Case):
    def test_draining(self):
        self.lorax_raises(OverloadedError, "^Server is shutting down")
        self.openai_raises(openai.InternalServerError, "draining")


if __name__ == "__main__":
    main()
