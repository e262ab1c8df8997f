"""lorax-client's synchronous Client, unmodified."""
import unittest

from lorax import Client
from support import ADAPTERS, CAPITAL, REVIEW, URL, main


class Generate(unittest.TestCase):
    def setUp(self):
        self.client = Client(URL, timeout=120)

    def test_base_model(self):
        reply = self.client.generate(CAPITAL, max_new_tokens=12)
        self.assertIn("Paris", reply.generated_text)
        self.assertEqual(reply.details.generated_tokens, len(reply.details.tokens))
        self.assertIsNone(reply.details.seed)
        self.assertEqual(reply.details.prefill, [])

    def test_adapters_answer_as_they_were_trained(self):
        self.assertEqual(self.client.generate(REVIEW, adapter_id="sentiment", max_new_tokens=8).generated_text, "negative")
        answers = {name: self.client.generate(CAPITAL, adapter_id=name, max_new_tokens=12).generated_text for name in ADAPTERS}
        self.assertEqual(len(set(answers.values())), len(ADAPTERS), answers)

    def test_stream_equals_plain(self):
        for adapter in [None, *ADAPTERS]:
            plain = self.client.generate(CAPITAL, adapter_id=adapter, max_new_tokens=16)
            events = list(self.client.generate_stream(CAPITAL, adapter_id=adapter, max_new_tokens=16))
            self.assertEqual([event.token for event in events], plain.details.tokens)
            self.assertEqual([event.generated_text for event in events[:-1]], [None] * (len(events) - 1))
            self.assertEqual(events[-1].generated_text, plain.generated_text)
            self.assertEqual(events[-1].details.finish_reason, plain.details.finish_reason)

    def test_without_details(self):
        self.assertIsNone(self.client.generate(CAPITAL, max_new_tokens=2, details=False).details)


if __name__ == "__main__":
    main()
