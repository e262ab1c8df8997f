"""What the suites share: the server under test, and prompts in the form of the demo model."""
import os
import unittest

URL = os.environ["CLIENTS_URL"]
ADAPTERS = ["support-json", "sql", "sentiment", "pirate"]


def chat(text: str) -> str:
    """A user's message as the demo model was trained to read it."""
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


REVIEW = chat("What a clumsy book!")
CAPITAL = chat("What is the capital of France?")

main = unittest.main
