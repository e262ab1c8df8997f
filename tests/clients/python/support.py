"""What the suites share: the server under test, what it is doing, and prompts in the form of the demo model."""
import json
import os
import pathlib
import re
import time
import unittest
import urllib.request

URL = os.environ["CLIENTS_URL"]
ADMIN_URL = os.environ["CLIENTS_ADMIN_URL"]
EXAMPLES = pathlib.Path(__file__).parents[3] / "examples" / "adapters"
ADAPTERS = ["support-json", "sql", "sentiment", "pirate"]


def chat(text: str) -> str:
    """A user's message as the demo model was trained to read it."""
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


REVIEW = chat("What a clumsy book!")
CAPITAL = chat("What is the capital of France?")


def get(url: str) -> str:
    with urllib.request.urlopen(url) as reply:
        return reply.read().decode()


def until(condition, what: str, seconds: float = 60):
    """Polls until `condition` returns something true, which is returned; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"never happened: {what}")
        time.sleep(0.02)
    return found


def engine_state() -> dict:
    return json.loads(get(f"{ADMIN_URL}/state"))


def until_idle():
    """Returns once no request runs or waits and none holds KV blocks or adapters."""

    def idle():
        state = engine_state()
        held = state["running"] + state["waiting"] + state["waitingForAdapter"] + state["kvBlocks"]["used"]
        return held + sum(tier["pinned"] for tier in state["tiers"]) == 0

    until(idle, "an idle engine")


def until_running(count: int):
    """Returns once at least `count` requests take part in steps."""
    until(lambda: engine_state()["running"] >= count, f"{count} requests that run")


def metric(name: str, **labels: str) -> float:
    """Sum of the samples of a metric whose labels include `labels`."""
    time.sleep(0.15)  # The server renders at most ten times a second.
    total = 0.0
    for found in re.finditer(rf"^{name}(?:\{{(.*)\}})? (\S+)$", get(f"{URL}/metrics"), re.MULTILINE):
        if labels.items() <= dict(re.findall(r'(\w+)="([^"]*)"', found[1] or "")).items():
            total += float(found[2])
    return total


main = unittest.main
