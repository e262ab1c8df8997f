"""onnxruntime-genai as a contender of bench/: answers the jobs of bench/contenders/protocol.ts that need no adapter.

usage: genai.py --gguf FILE --models DIR --precision fp32|int4 [--threads N]

Its own builder makes the model, once, from the GGUF file's weights: `fp32`, or `int4` (blocks of 32, 8-bit activations).
A generator has one active adapter at most, so its batches cannot mix adapters: jobs with adapters are refused.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime_genai

BASE_NAME = "__base__"


def write_hugging_face_directory(gguf: Path, target: str) -> None:
    import torch
    import transformers

    read = transformers.LlamaForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = read.config.to_dict()
    # A model that remembers where it came from refuses to be saved.
    config.pop("quantization_config", None)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
    model.load_state_dict(read.state_dict())
    model.save_pretrained(target)
    transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)


def build_model(gguf: Path, directory: Path, precision: str) -> None:
    with tempfile.TemporaryDirectory() as work:
        source, built = f"{work}/source", directory.with_name(f"{directory.name}.part")
        write_hugging_face_directory(gguf, source)
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", source, "-o", str(built)]
        command += ["-p", precision, "-e", "cpu", "-c", f"{work}/cache"]
        if precision == "int4":
            command += ["--extra_options", "int4_accuracy_level=4", "int4_block_size=32"]
        subprocess.run(command, check=True, stdout=sys.stderr)
        built.rename(directory)


def set_threads(directory: Path, threads: int) -> None:
    path = directory / "genai_config.json"
    config = json.loads(path.read_text())
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    path.write_text(json.dumps(config, indent=4))


def run(model: onnxruntime_genai.Model, job: dict) -> dict:
    if set(job["adapters"]) != {BASE_NAME}:
        raise ValueError("a generator has one active adapter at most")
    prompts = np.array(job["prompts"], dtype=np.int32)
    parameters = onnxruntime_genai.GeneratorParams(model)
    most = prompts.shape[1] + job["steps"] + 2
    # Every row runs to its end, whatever it says.
    parameters.set_search_options(batch_size=prompts.shape[0], do_sample=False, min_length=most, max_length=most)
    generator = onnxruntime_genai.Generator(model, parameters)
    start = time.perf_counter()
    generator.append_tokens(prompts)
    generator.generate_next_token()
    if job["phase"] == "prefill":
        return answer(prompts.size, time.perf_counter() - start, generator.get_next_tokens())
    first = generator.get_next_tokens().copy()
    generator.generate_next_token()
    start = time.perf_counter()
    for _ in range(job["steps"]):
        generator.generate_next_token()
    return answer(prompts.shape[0] * job["steps"], time.perf_counter() - start, first)


def answer(tokens: int, seconds: float, first: np.ndarray) -> dict:
    return {"tokens": int(tokens), "seconds": seconds, "stepBytes": None, "first": [int(token) for token in first]}


def say(line: dict) -> None:
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True, help="the demo model as `--model demo` fetches it")
    parser.add_argument("--models", type=Path, required=True, help="where built models are kept")
    parser.add_argument("--precision", choices=("fp32", "int4"), required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    directory = options.models / f"genai-{options.precision}"
    if not directory.exists():
        options.models.mkdir(parents=True, exist_ok=True)
        build_model(options.gguf, directory, options.precision)
    set_threads(directory, options.threads)
    model = onnxruntime_genai.Model(str(directory))
    versions = {name: version(name) for name in ("onnxruntime-genai", "onnxruntime")}
    say({"versions": versions, "settings": f"{options.precision} of its own builder, {options.threads} threads"})
    for line in sys.stdin:
        if line.strip():
            try:
                say(run(model, json.loads(line)))
            except Exception as error:  # the driver decides what a failed job means
                say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
