"""PEFT's decode speed on SmolLM2-135M-Instruct with mixed adapters in one batch: the peer of the step benchmark.

usage: peft_mixed.py GGUF [--rounds 3] [--steps 16] [--threads N] [--prompt-length 32] [--rank 16]

Without --serve it measures every scenario at batch 1, 4 and 16. With --serve it reads one JSON object a line from
standard input, `{"scenario": "distinct", "batch": 16}` (`rounds` and `steps` may be given too), and answers each with
one line, so that a driver can take turns between engines on a machine whose speed drifts. Each line holds
`{"engine": "peft", "scenario", "batch", "tokensPerSecond", …}`; `ready` comes first, progress goes to standard error.

Scenarios: `base` (no adapter), `one` (every row the same adapter), `distinct` (every row its own adapter). The adapters
are random, rank 16 on all linear modules, each with weights of its own for every module. What is timed is decode steps
with a key/value cache, one token for each row; the prompt is run before the clock starts. tokensPerSecond is the median
of the rounds; `best` is the fastest.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

SCENARIOS = ("base", "one", "distinct")
BATCHES = (1, 4, 16)
BASE_NAME = "__base__"


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def load_base(path: Path) -> LlamaForCausalLM:
    """The model of a GGUF file, dequantised to float32."""
    return LlamaForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()


def add_adapters(base: LlamaForCausalLM, count: int, rank: int) -> torch.nn.Module:
    """`count` adapters named a0, a1, …: random factors, strong enough to move the logits (checked)."""
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, config, adapter_name="a0")
    for index in range(1, count):
        model.add_adapter(f"a{index}", config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)
            elif "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def row_names(scenario: str, batch: int) -> list[str]:
    return {
        "base": [BASE_NAME] * batch,
        "one": ["a0"] * batch,
        "distinct": [f"a{row}" for row in range(batch)],
    }[scenario]


@torch.no_grad()
def decode(model: torch.nn.Module, prompts: torch.Tensor, names: list[str], steps: int) -> tuple[torch.Tensor, float]:
    """Prefills `prompts` [N, L], then times `steps` greedy steps; returns the ids [N, steps] and the seconds."""
    arguments = {"adapter_names": names}
    if all(name == BASE_NAME for name in names):
        model, arguments = model.get_base_model(), {}
    output = model(input_ids=prompts, use_cache=True, logits_to_keep=1, **arguments)
    ids, cache = [output.logits[:, -1].argmax(-1, keepdim=True)], output.past_key_values
    start = time.perf_counter()
    for _ in range(steps):
        output = model(input_ids=ids[-1], past_key_values=cache, use_cache=True, **arguments)
        ids.append(output.logits[:, -1].argmax(-1, keepdim=True))
    return torch.cat(ids[1:], 1), time.perf_counter() - start


class Bench:
    """The model with its adapters, and measurements on it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.base = load_base(options.gguf)
        self.model = add_adapters(self.base, max(BATCHES), options.rank)
        generator = torch.Generator().manual_seed(1)
        shape = (max(BATCHES), options.prompt_length)
        self.prompts = torch.randint(3, self.base.config.vocab_size, shape, generator=generator)

    def check(self) -> None:
        """Adapters that change nothing would make the comparison worthless."""
        with torch.no_grad():
            mixed = self.model(self.prompts[:2], adapter_names=["a0", BASE_NAME]).logits[:, -1]
            other = self.model(self.prompts[:2], adapter_names=["a1", "a1"]).logits[:, -1]
        moved = ((mixed[0] - other[0]).norm() / other[0].norm()).item()
        kept = ((mixed[1] - other[1]).norm() / mixed[1].norm()).item()
        if min(moved, kept) < 0.05:
            raise SystemExit(f"the adapters move the logits by {min(moved, kept):.3f} only, expected at least 0.05")

    def measure(self, scenario: str, batch: int, rounds: int, steps: int) -> dict:
        names, prompts = row_names(scenario, batch), self.prompts[:batch]
        decode(self.model, prompts, names, 1)
        rates = [batch * steps / decode(self.model, prompts, names, steps)[1] for _ in range(rounds)]
        return {
            "engine": "peft",
            "scenario": scenario,
            "batch": batch,
            "tokensPerSecond": round(statistics.median(rates), 2),
            "best": round(max(rates), 2),
            "rounds": rounds,
            "steps": steps,
            "rank": self.options.rank,
            "promptLength": self.options.prompt_length,
            "threads": torch.get_num_threads(),
            "precision": "f32",
            "versions": {module.__name__: module.__version__ for module in (peft, transformers, torch)},
        }


def commands(options: argparse.Namespace) -> Iterator[dict]:
    if options.serve:
        print("ready", flush=True)
        yield from (json.loads(line) for line in sys.stdin if line.strip())
    else:
        yield from ({"scenario": scenario, "batch": batch} for scenario in SCENARIOS for batch in BATCHES)


def perform(bench: Bench, command: dict) -> dict:
    scenario, batch = command.get("scenario"), command.get("batch")
    if scenario not in SCENARIOS or batch not in range(1, max(BATCHES) + 1):
        return {
            "engine": "peft",
            "error": f"expected a scenario of {SCENARIOS} and a batch of 1 to 16, found {command}",
        }
    options = bench.options
    return bench.measure(scenario, batch, command.get("rounds", options.rounds), command.get("steps", options.steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path, help="SmolLM2-135M-Instruct as GGUF, the file that `--model demo` fetches")
    parser.add_argument("--serve", action="store_true", help="answer commands from standard input")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--threads", type=int, help="default: what torch chooses")
    parser.add_argument("--prompt-length", type=int, default=32)
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    log(f"loading {options.gguf}")
    bench = Bench(options)
    bench.check()
    for command in commands(options):
        print(json.dumps(perform(bench, command)), flush=True)


if __name__ == "__main__":
    main()
