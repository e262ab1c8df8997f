"""lorax-client's synchronous Client, unmodified."""
import http.client
import json
import select
import unittest
from urllib.parse import urlparse

from lorax import Client
from lorax.errors import GenerationError, NotFoundError, OverloadedError, ValidationError
from lorax.types import MergedAdapters
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

    def test_seeds_repeat_answers(self):
        sampled = dict(do_sample=True, temperature=1.5, max_new_tokens=12)
        drawn = self.client.generate(CAPITAL, **sampled)
        self.assertLess(drawn.details.seed, 2**53)
        again = self.client.generate(CAPITAL, seed=drawn.details.seed, **sampled)
        self.assertEqual(again.details.tokens, drawn.details.tokens)
        largest = self.client.generate(CAPITAL, seed=2**64 - 1, **sampled)
        self.assertEqual(largest.details.seed, 2**64 - 1)

    def test_best_of(self):
        reply = self.client.generate(CAPITAL, best_of=2, temperature=1.5, max_new_tokens=6)
        [other] = reply.details.best_of_sequences

        def mean(tokens):
            return sum(token.logprob for token in tokens) / len(tokens)

        self.assertGreaterEqual(mean(reply.details.tokens), mean(other.tokens))
        alone = self.client.generate(CAPITAL, seed=other.seed, temperature=1.5, max_new_tokens=6)
        self.assertEqual(alone.details.tokens, other.tokens)

    def test_alternatives(self):
        for token in self.client.generate(CAPITAL, return_k_alternatives=3, max_new_tokens=2).details.tokens:
            self.assertEqual(len(token.alternative_tokens), 3)
            self.assertEqual(token.alternative_tokens[0].id, token.id)
            self.assertEqual(token.alternative_tokens[0].logprob, token.logprob)

    def test_prompt_log_probabilities(self):
        reply = self.client.generate(CAPITAL, decoder_input_details=True, max_new_tokens=4)
        prefill = reply.details.prefill
        self.assertEqual(len(prefill), reply.details.prompt_tokens)
        self.assertIsNone(prefill[0].logprob)
        self.assertTrue(all(token.logprob <= 0 for token in prefill[1:]))
        self.assertIn("France", "".join(token.text for token in prefill))
        # The answer scores the same once it is part of a prompt.
        whole = self.client.generate(CAPITAL + reply.generated_text, decoder_input_details=True, max_new_tokens=1)
        for first, again in zip(reply.details.tokens, whole.details.prefill[len(prefill) :]):
            self.assertEqual(again.id, first.id)
            self.assertAlmostEqual(again.logprob, first.logprob, places=3)

    def test_adapter_source(self):
        here = self.client.generate(CAPITAL, adapter_id="sql", adapter_source="local", max_new_tokens=4)
        self.assertEqual(here.details.tokens, self.client.generate(CAPITAL, adapter_id="sql", max_new_tokens=4).details.tokens)

    def test_stop_truncate_and_full_text(self):
        whole = self.client.generate(CAPITAL, max_new_tokens=12)
        stop = whole.details.tokens[2].text
        reply = self.client.generate(CAPITAL, stop_sequences=[stop], max_new_tokens=12, return_full_text=True)
        self.assertEqual(reply.details.finish_reason.value, "stop_sequence")
        self.assertTrue(reply.generated_text.startswith(CAPITAL) and reply.generated_text.endswith(stop))
        self.assertEqual(self.client.generate(CAPITAL, truncate=3, max_new_tokens=1).details.prompt_tokens, 3)

    def test_sampling_parameters_act(self):
        loose = dict(temperature=2.0, seed=3, max_new_tokens=12)
        plain = self.client.generate(CAPITAL, **loose).generated_text
        for knob in (dict(top_k=1), dict(top_p=0.05), dict(typical_p=0.05), dict(repetition_penalty=2.0)):
            self.assertNotEqual(self.client.generate(CAPITAL, **loose, **knob).generated_text, plain, knob)

    def test_merged_adapters(self):
        for strategy, density in [("linear", 0.0), ("ties", 0.5), ("dare_linear", 0.8), ("dare_ties", 0.8)]:
            merged = MergedAdapters(ids=["sql", "sql"], weights=[0.5, 0.5], merge_strategy=strategy, density=density)
            reply = self.client.generate(CAPITAL, merged_adapters=merged, max_new_tokens=4)
            self.assertEqual(reply.details.generated_tokens, 4, strategy)


    def test_response_format(self):
        city = {"city": {"enum": ["Paris", "Oslo"]}}
        schema = {"type": "object", "properties": city, "required": ["city"], "additionalProperties": False}
        answer = {"type": "json_object", "schema": schema}
        for adapter in (None, "pirate"):
            reply = self.client.generate(CAPITAL, adapter_id=adapter, response_format=answer, max_new_tokens=40)
            self.assertEqual(list(json.loads(reply.generated_text)), ["city"])
            *_, last = self.client.generate_stream(CAPITAL, adapter_id=adapter, response_format=answer, max_new_tokens=40)
            self.assertEqual(last.generated_text, reply.generated_text)
        with self.assertRaises(ValidationError):
            self.client.generate(CAPITAL, response_format={"type": "json_object", "schema": {"type": "nothing"}})


class Errors(unittest.TestCase):
    def setUp(self):
        self.client = Client(URL, timeout=120)

    def refused(self, error, message, **parameters):
        for stream in (False, True):
            with self.assertRaisesRegex(error, message):
                if stream:
                    list(self.client.generate_stream(CAPITAL, **parameters))
                else:
                    self.client.generate(CAPITAL, **parameters)

    def test_validation(self):
        self.refused(ValidationError, "^Input validation error: `max_new_tokens` must be strictly positive", max_new_tokens=0)
        self.refused(ValidationError, "`inputs` tokens \\+ `max_new_tokens` must be <=", max_new_tokens=10**6)
        self.refused(ValidationError, "watermark", watermark=True)
        self.refused(ValidationError, "adapter_source", adapter_id="a/b", adapter_source="pbase")

    def test_what_the_client_refuses_itself(self):
        for parameters in [dict(best_of=2, seed=1, temperature=1.0), dict(temperature=-1), dict(top_p=1.0), dict(truncate=0)]:
            with self.assertRaises(ValidationError):
                self.client.generate(CAPITAL, **parameters)

    def test_routes_that_are_not_there(self):
        with self.assertRaisesRegex(NotFoundError, "makes no embeddings"):
            self.client.embed(CAPITAL)
        with self.assertRaisesRegex(NotFoundError, "does not classify"):
            self.client.classify(CAPITAL)

    def test_generation(self):
        self.refused(GenerationError, "^Request failed during generation: Server error: .*nobody", adapter_id="nobody")

    def test_overloaded(self):
        address = urlparse(URL)
        held = []
        try:
            for size in (256, 64, 16, 4, 1):
                while True:
                    connection = http.client.HTTPConnection(address.hostname, address.port)
                    parameters = {"adapter_names": ["__base__"] * size, "max_new_tokens": 500, "ignore_eos_token": True}
                    body = {"inputs": ["Once"] * size, "parameters": parameters}
                    connection.request("POST", "/generate", json.dumps(body), {"content-type": "application/json"})
                    held.append(connection)
                    answered, _, _ = select.select([connection.sock], [], [], 1.0)
                    if answered:
                        self.assertEqual(connection.getresponse().status, 429)
                        break
            self.refused(OverloadedError, "^Model is overloaded", max_new_tokens=1)
        finally:
            for connection in held:
                connection.close()
        self.assertEqual(self.client.generate(CAPITAL, max_new_tokens=1).details.generated_tokens, 1)


if __name__ == "__main__":
    main()
