"""The metrics as Prometheus' own Python parser reads them."""
import unittest

import openai
from prometheus_client.parser import text_string_to_metric_families
from support import CAPITAL, URL, get, main

CLIENT = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)


def families(path: str) -> dict:
    text = get(f"{URL}{path}")
    found = list(text_string_to_metric_families(text))
    # The parser merges what it can: each family must also be declared once.
    declared = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(declared) == len(set(declared)), declared
    assert len(found) == len(declared), (len(found), len(declared))
    return {family.name: family for family in found}


class Metrics(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        CLIENT.completions.create(model="sql", prompt=CAPITAL, max_tokens=4, n=2, temperature=1)

    def test_every_family_is_well_formed(self):
        found = families("/metrics")
        self.assertGreater(len(found), 80)
        for family in found.values():
            self.assertNotEqual(family.type, "unknown", family.name)
            self.assertTrue(family.documentation, family.name)
            series = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
            self.assertEqual(len(series), len(set(series)), family.name)
            if family.type == "counter":
                self.assertTrue(all(sample.value >= 0 for sample in family.samples), family.name)

    def test_histograms_add_up(self):
        for family in families("/metrics").values():
            if family.type != "histogram":
                continue
            buckets: dict = {}
            totals: dict = {}
            for sample in family.samples:
                labels = dict(sample.labels)
                bound = labels.pop("le", None)
                key = tuple(sorted(labels.items()))
                if sample.name.endswith("_bucket"):
                    buckets.setdefault(key, []).append((float(bound), sample.value))
                elif sample.name.endswith("_count"):
                    totals[key] = sample.value
            for key, counts in buckets.items():
                bounds = [bound for bound, _ in counts]
                self.assertEqual(bounds, sorted(set(bounds)), family.name)
                self.assertEqual(bounds[-1], float("inf"), family.name)
                values = [value for _, value in counts]
                self.assertEqual(values, sorted(values), family.name)
                self.assertEqual(values[-1], totals[key], family.name)

    def test_what_gateways_poll(self):
        found = families("/metrics/router")
        for name in ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "lora_requests_info"]:
            self.assertEqual(len(found[f"vllm:{name}"].samples), 1, name)

    def test_choices(self):
        choices = families("/metrics")["vllm:request_params_n"]
        value = {sample.labels.get("le"): sample.value for sample in choices.samples if sample.name.endswith("_bucket")}
        self.assertGreater(value["2"], value["1"])


if __name__ == "__main__":
    main()
