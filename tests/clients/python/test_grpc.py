"""gRPC by a client that has nothing but reflection: grpcio, as grpcurl would do it."""
import json
import os
import unittest

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from reflected import Reflected, plain
from support import ADAPTERS, ADMIN_URL, CAPITAL, EXAMPLES, REVIEW, get, main, metric, until, until_idle, until_running

GENERATE = "loramux.v1.Generation/Generate"
LIST = "loramux.v1.AdapterAdmin/ListAdapters"
LOAD = "loramux.v1.AdapterAdmin/LoadAdapter"
UNLOAD = "loramux.v1.AdapterAdmin/UnloadAdapter"
WATCH = "loramux.v1.AdapterAdmin/WatchAdapters"
ENDLESS = {"max_tokens": 500, "ignore_eos": True}


def greedy(model: str = "", prompt: str = CAPITAL, **stopping) -> dict:
    return {
        "model": model,
        "prompt": prompt,
        "sampling": {"temperature": 0},
        "stopping": {"max_tokens": 16, **stopping},
        "output": {"token_ids": True},
    }


def details_of(error: grpc.RpcError) -> dict:
    """The google.rpc details of a failure, by the names of their types."""
    found = {}
    for detail in rpc_status.from_call(error).details:
        name = detail.type_url.rpartition(".")[2]
        message = getattr(error_details_pb2, name)()
        assert detail.Unpack(message), detail.type_url
        found[name] = message
    return found


class Case(unittest.TestCase):
    def connect(self, variable: str) -> Reflected:
        client = Reflected(os.environ[variable])
        self.addCleanup(client.close)
        return client

    def refused(self, status: grpc.StatusCode, call) -> dict:
        """The details of the failure that `call` must end in."""
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        self.assertEqual(caught.exception.code(), status, caught.exception)
        return details_of(caught.exception)


class Generation(Case):
    def setUp(self):
        self.client = self.connect("CLIENTS_GRPC")

    def generate(self, message: dict, **options):
        return self.client.call(GENERATE, message, **options)

    def read(self, events) -> tuple[dict, str, list[int], dict]:
        """A whole answer: how it was accepted, text, token ids, how it ended."""
        first, *deltas, last = map(plain, events)
        self.assertEqual([delta["delta"].get("seq", 0) for delta in deltas], list(range(len(deltas))))
        text = "".join(delta["delta"].get("text", "") for delta in deltas)
        ids = [id for delta in deltas for id in delta["delta"].get("token_ids", [])]
        return first["accepted"], text, ids, last["done"]

    def test_services(self):
        services = self.client.services()
        self.assertIn("loramux.v1.Generation", services)
        self.assertNotIn("loramux.v1.AdapterAdmin", services)

    def test_unary(self):
        reply = self.client.call("loramux.v1.Generation/Tokenize", {"text": REVIEW})
        accepted, _, ids, done = self.read(self.generate(greedy("sentiment", REVIEW)))
        self.assertEqual(len(reply.token_ids), done["usage"]["prompt_tokens"])
        by_ids = {**greedy("sentiment"), "token_ids": {"ids": list(reply.token_ids)}}
        del by_ids["prompt"]
        self.assertEqual(self.read(self.generate(by_ids))[2], ids)
        self.assertEqual(accepted["model"], "sentiment")

    def test_base_and_adapters_in_one_batch(self):
        models = ["", *ADAPTERS]
        message = [greedy(model, ignore_eos=True) for model in models]
        alone = [self.read(self.generate(each)) for each in message]
        answers = {text for _, text, _, _ in alone}
        self.assertEqual(len(answers), len(models), answers)
        with_base = metric("loramux_steps_total", path="lora", base_rows="yes")
        together = [self.read(events) for events in [self.generate(each) for each in message]]
        self.assertGreater(metric("loramux_steps_total", path="lora", base_rows="yes"), with_base)
        for model, (accepted, text, ids, done), (_, *expected, _) in zip(models, together, alone):
            self.assertEqual([text, ids], expected, model)
            self.assertEqual(done["choices"][0]["finish_reason"], "LENGTH")
            if model:
                self.assertEqual(accepted["model"], model)
            self.assertEqual("digest" in accepted, model != "")

    def test_same_answer_as_by_rest(self):
        _, text, _, done = self.read(self.generate(greedy("sentiment", REVIEW)))
        self.assertEqual((text, done["choices"][0]["finish_reason"]), ("negative", "EOS"))

    def test_choices_and_logprobs(self):
        message = {
            **greedy("pirate"),
            "sampling": {"temperature": 1.5, "seed": 2**64 - 1, "n": 2},
            "output": {"logprobs": 2, "prompt_logprobs": 1},
        }
        events = [plain(event) for event in self.generate(message)]
        prompt = events[1]["prompt"]["tokens"]
        self.assertNotIn("logprob", prompt[0])
        self.assertTrue(all(token["logprob"] <= 0 for token in prompt[1:]))
        done = events[-1]["done"]
        self.assertEqual([choice.get("index", 0) for choice in done["choices"]], [0, 1])
        self.assertEqual(done["choices"][0]["seed"], str(2**64 - 1))
        tokens = [token for event in events if "delta" in event for token in event["delta"].get("tokens", [])]
        self.assertEqual(len(tokens), done["usage"]["completion_tokens"])
        self.assertTrue(all(len(token["top"]) >= 2 for token in tokens))

    def test_constraint(self):
        schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Oslo"]}}, "required": ["city"]}
        message = {**greedy("pirate", max_tokens=40), "constraint": {"json_schema": json.dumps(schema)}}
        _, text, _, _ = self.read(self.generate(message))
        self.assertIn(json.loads(text)["city"], ["Paris", "Oslo"])

    def test_cancel_frees_all(self):
        until_idle()
        calls = [self.generate(greedy(model, **ENDLESS)) for model in ["", *ADAPTERS]]
        for call in calls:
            self.assertIn("accepted", plain(next(call)))
            self.assertIn("delta", plain(next(call)))
        kept = calls.pop()
        for call in calls:
            call.cancel()
            with self.assertRaises(grpc.RpcError) as caught:
                list(call)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.CANCELLED)
        self.assertIn("delta", plain(next(kept)))
        kept.cancel()
        until_idle()

    def test_deadline_frees_all(self):
        until_idle()
        with self.assertRaises(grpc.RpcError) as caught:
            while True:  # A machine fast enough to end in time is asked again.
                list(self.generate(greedy("sql", **ENDLESS), timeout=0.5))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        until_idle()

    def test_a_connection_that_goes_away_frees_all(self):
        until_idle()
        other = Reflected(os.environ["CLIENTS_GRPC"])
        calls = [other.call(GENERATE, greedy(model, **ENDLESS)) for model in ADAPTERS]
        until_running(len(calls))
        other.close()
        until_idle()

    def test_errors_have_details(self):
        cases = [
            (grpc.StatusCode.NOT_FOUND, "ERR_ADAPTER_NOT_FOUND", None, greedy("nobody")),
            (grpc.StatusCode.INVALID_ARGUMENT, "ERR_VALIDATION", "sampling.top_p", {"prompt": "x", "sampling": {"top_p": 2}}),
            (grpc.StatusCode.INVALID_ARGUMENT, "ERR_VALIDATION", "input", {}),
            (grpc.StatusCode.INVALID_ARGUMENT, "ERR_PROMPT_TOO_LONG", "input", {"prompt": "x " * 20_000}),
            (
                grpc.StatusCode.INVALID_ARGUMENT,
                "ERR_VALIDATION",
                "constraint.json_schema",
                {"prompt": "x", "constraint": {"json_schema": "{"}},
            ),
        ]
        for status, reason, field, message in cases:
            details = self.refused(status, lambda: list(self.generate(message)))
            self.assertEqual((details["ErrorInfo"].reason, details["ErrorInfo"].domain), (reason, "loramux"))
            violations = details["BadRequest"].field_violations if "BadRequest" in details else []
            self.assertEqual([violation.field for violation in violations], [field] if field else [])


class Health(Case):
    def test_both_addresses(self):
        for variable, service in [("CLIENTS_GRPC", "Generation"), ("CLIENTS_GRPC_ADMIN", "AdapterAdmin")]:
            client = self.connect(variable)
            for name in ["", f"loramux.v1.{service}"]:
                reply = client.call("grpc.health.v1.Health/Check", {"service": name})
                self.assertEqual(plain(reply), {"status": "SERVING"})
            with self.assertRaises(grpc.RpcError) as caught:
                client.call("grpc.health.v1.Health/Check", {"service": "nobody"})
            self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)


class AdapterAdmin(Case):
    def setUp(self):
        self.client = self.connect("CLIENTS_GRPC_ADMIN")

    def call(self, method: str, message: dict) -> dict:
        return plain(self.client.call(method, message))

    def test_services(self):
        services = self.client.services()
        self.assertIn("loramux.v1.AdapterAdmin", services)
        self.assertNotIn("loramux.v1.Generation", services)

    def test_lists_what_the_admin_api_lists(self):
        for name in ADAPTERS:  # Each is read at least once.
            list(self.connect("CLIENTS_GRPC").call(GENERATE, greedy(name, max_tokens=1)))
        by_rest = {each["name"]: each["digest"] for each in json.loads(get(f"{ADMIN_URL}/adapters"))["adapters"]}
        by_page, token = {}, ""
        while True:
            page = self.call(LIST, {"page_size": 1, "page_token": token})
            by_page |= {each["name"]: each["digest"] for each in page["adapters"]}
            token = page.get("next_page_token", "")
            if not token:
                break
        self.assertEqual(by_page, by_rest)
        self.assertTrue(set(ADAPTERS) <= set(by_page))

    def test_load_watch_use_unload(self):
        load = {"name": "grpc-sql", "source": "LOCAL", "location": f"{EXAMPLES}/sql"}
        events = self.client.call(WATCH, {"names": ["grpc-sql"]})
        self.addCleanup(events.cancel)
        self.assertEqual(plain(next(events)), {"type": "SYNCED"})
        self.assertEqual(self.call(LOAD, {**load, "dry_run": True})["outcome"], "FITS")
        loaded = self.call(LOAD, load)
        self.assertEqual(loaded["outcome"], "CREATED")
        self.assertEqual(self.call(LOAD, load)["outcome"], "UNCHANGED")
        while (event := plain(next(events)))["adapter"]["state"] != "ready":
            self.assertIn(event["type"], ["ADDED", "CHANGED"])
        generation = self.connect("CLIENTS_GRPC")
        accepted = plain(next(generation.call(GENERATE, greedy("grpc-sql", max_tokens=1))))["accepted"]
        self.assertEqual(accepted["digest"], loaded["adapter"]["digest"])
        self.call(UNLOAD, {"name": "grpc-sql"})
        while plain(next(events))["type"] != "REMOVED":
            pass
        self.refused(grpc.StatusCode.NOT_FOUND, lambda: list(generation.call(GENERATE, greedy("grpc-sql"))))

    def test_a_forced_unload_ends_its_calls(self):
        load = {"name": "grpc-cut", "source": "LOCAL", "location": f"{EXAMPLES}/pirate"}
        self.call(LOAD, load)
        running = self.connect("CLIENTS_GRPC").call(GENERATE, greedy("grpc-cut", **ENDLESS))
        next(running)
        self.assertEqual(self.call(UNLOAD, {"name": "grpc-cut", "force": True})["rows_cut"], 1)
        details = self.refused(grpc.StatusCode.ABORTED, lambda: list(running))
        self.assertEqual(details["ErrorInfo"].reason, "ERR_ADAPTER_UNLOADED")
        until_idle()

    def test_errors_have_details(self):
        outside = {"name": "x", "source": "LOCAL", "location": "/etc"}
        nowhere = {"name": "x", "source": "LOCAL", "location": f"{EXAMPLES}/nowhere"}
        cases = [
            (grpc.StatusCode.NOT_FOUND, "ERR_ADAPTER_NOT_FOUND", lambda: self.call(LOAD, nowhere)),
            (grpc.StatusCode.PERMISSION_DENIED, "ERR_ADAPTER_FORBIDDEN", lambda: self.call(LOAD, outside)),
            (grpc.StatusCode.NOT_FOUND, "ERR_ADAPTER_NOT_FOUND", lambda: self.call(UNLOAD, {"name": "x"})),
            (grpc.StatusCode.INVALID_ARGUMENT, "ERR_BAD_REQUEST", lambda: self.call(LOAD, {"name": "x"})),
            (grpc.StatusCode.INVALID_ARGUMENT, "ERR_BAD_REQUEST", lambda: self.call(LIST, {"page_size": 1001})),
        ]
        for status, reason, call in cases:
            self.assertEqual(self.refused(status, call)["ErrorInfo"].reason, reason)


if __name__ == "__main__":
    main()
