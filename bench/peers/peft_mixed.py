"""PEFT on torch's CPU kernels as a contender of bench/: answers the jobs of bench/contenders/protocol.ts.

usage: peft_mixed.py --gguf FILE --adapters DIR [--threads N] [--dtype float32|bfloat16]

The fastest way that PEFT has for each job: rows of the base run the plain Transformers model, without PEFT's wrappers;
rows of one adapter run it as the active one; rows of several run one mixed batch (`adapter_names`), for which PEFT loops
over the adapters within each layer. What is timed of a decode is steps with a key/value cache, one token for each row,
after the prompt and one step more.
"""

import argparse
import copy
import json
import sys
import time
from pathlib import Path

import peft
import torch
import transformers
from peft import PeftModel
from transformers import LlamaForCausalLM

BASE_NAME = "__base__"


class Contender:
    """One copy of the base's weights, read by the plain model and by PEFT's."""

    def __init__(self, gguf: Path, adapters: Path, dtype: torch.dtype) -> None:
        self.adapters = adapters
        base = LlamaForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=dtype).eval()
        # PEFT puts its layers into the model that it wraps: that must not be the plain one.
        shared = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
        self.base, self.wrapped, self.other = base, None, copy.deepcopy(base, shared)

    def model_for(self, names: list[str]) -> tuple[torch.nn.Module, dict]:
        """The model to call, and what to call it with besides tokens."""
        distinct = sorted(set(names))
        if distinct == [BASE_NAME]:
            return self.base, {}
        for name in distinct:
            if name != BASE_NAME:
                self.load(name)
        if len(distinct) > 1:
            return self.wrapped, {"adapter_names": names}
        if self.wrapped.active_adapter != distinct[0]:
            self.wrapped.set_adapter(distinct[0])
        return self.wrapped, {}

    def load(self, name: str) -> None:
        if self.wrapped is None:
            self.wrapped = PeftModel.from_pretrained(
                self.other, self.adapters / name, adapter_name=name, low_cpu_mem_usage=True
            ).eval()
        elif name not in self.wrapped.peft_config:
            self.wrapped.load_adapter(self.adapters / name, adapter_name=name, low_cpu_mem_usage=True)

    @torch.inference_mode()
    def run(self, job: dict) -> dict:
        model, arguments = self.model_for(job["adapters"])
        prompts = torch.tensor(job["prompts"])
        start = time.perf_counter()
        output = model(input_ids=prompts, use_cache=True, logits_to_keep=1, **arguments)
        token = output.logits[:, -1].argmax(-1, keepdim=True)
        if job["phase"] == "prefill":
            return answer(prompts.numel(), time.perf_counter() - start, token)
        first = token
        for step in range(job["steps"] + 1):
            if step == 1:
                start = time.perf_counter()
            output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True, **arguments)
            token = output.logits[:, -1].argmax(-1, keepdim=True)
        return answer(len(job["adapters"]) * job["steps"], time.perf_counter() - start, first)


def answer(tokens: int, seconds: float, first: torch.Tensor) -> dict:
    return {"tokens": tokens, "seconds": seconds, "stepBytes": None, "first": first.flatten().tolist()}


def say(line: dict) -> None:
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True, help="the demo model as `--model demo` fetches it")
    parser.add_argument("--adapters", type=Path, required=True, help="holds the adapters' directories")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    contender = Contender(options.gguf, options.adapters, getattr(torch, options.dtype))
    versions = {module.__name__: module.__version__ for module in (peft, transformers, torch)}
    say({"versions": versions, "settings": f"{options.dtype}, {torch.get_num_threads()} threads, eager"})
    for line in sys.stdin:
        if line.strip():
            try:
                say(contender.run(json.loads(line)))
            except Exception as error:  # the driver decides what a failed job means
                say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
