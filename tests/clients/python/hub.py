"""Adapters of a hub by lorax-client's first request for them. `hub-adapters.test.ts` plays the hub."""
import asyncio
import json
import os
import unittest

from lorax import AsyncClient, Client
from lorax.errors import GenerationError, ValidationError
from support import ADMIN_URL, CAPITAL, REVIEW, URL, get, main, until_idle

REPO = "demo/mood"
TOKEN = os.environ["CLIENTS_HUB_TOKEN"]
ASK = dict(adapter_id=REPO, adapter_source="hub", api_token=TOKEN, max_new_tokens=8)


class Case(unittest.TestCase):
    def setUp(self):
        self.client = Client(URL, timeout=300)

    def refused(self, message: str, **parameters):
        """The request fails as a failed load, and leaves the server serving."""
        for stream in (False, True):
            with self.assertRaisesRegex(GenerationError, message):
                if stream:
                    list(self.client.generate_stream(REVIEW, **{**ASK, **parameters}))
                else:
                    self.client.generate(REVIEW, **{**ASK, **parameters})
        until_idle()
        local = self.client.generate(REVIEW, adapter_id="sentiment", max_new_tokens=8)
        self.assertEqual(local.generated_text, "negative")


class OnDemand(Case):
    def test_1_refusals_before_anything_is_here(self):
        self.refused("401.*give a token", api_token="hf_wrong")
        self.refused(f"hub:{REPO}@v9.*check the address and the revision", adapter_id=f"{REPO}@v9")
        self.refused("check the address and the revision", adapter_id="demo/nothing")
        with self.assertRaises(ValidationError):
            self.client.generate(REVIEW, **{**ASK, "adapter_id": "no-repository"})

    def test_2_the_first_requests_share_one_load(self):
        async def ask_all():
            client = AsyncClient(URL, timeout=10)
            return await asyncio.gather(*(client.generate(REVIEW, **ASK) for _ in range(3)))

        for reply in asyncio.run(ask_all()):
            self.assertEqual(reply.generated_text, "negative")
        adapters = json.loads(get(f"{ADMIN_URL}/adapters"))["adapters"]
        here = [each for each in adapters if each["source"] == f"hub:{REPO}@main" and each["state"] == "ready"]
        self.assertEqual([each["requests"] for each in here], [3], adapters)

    def test_3_then_it_is_resident_and_equals_the_local_one(self):
        streamed = list(self.client.generate_stream(CAPITAL, **ASK))
        local = self.client.generate(CAPITAL, adapter_id="sentiment", max_new_tokens=8)
        self.assertEqual([event.token for event in streamed], local.details.tokens)

    def test_4_a_revision_is_an_adapter_of_its_own(self):
        reply = self.client.generate(REVIEW, **{**ASK, "adapter_id": f"{REPO}@v2"})
        self.assertEqual(reply.generated_text, "negative")


class Stalling(Case):
    def test_the_time_that_it_may_take_is_bounded(self):
        self.refused("could not be fetched.*longer than 2 s")


class Lying(Case):
    def test_what_does_not_add_up_is_refused(self):
        self.refused("could not be fetched")


if __name__ == "__main__":
    main()
