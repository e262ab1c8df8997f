"""Trains one LoRA adapter for SmolLM2-135M-Instruct with PEFT, on a CPU, in minutes.

    $(node scripts/python-env.mjs) examples/train/train_adapter.py GGUF TASK OUTPUT [--steps N]

GGUF is the file that `--model demo` fetches. TASK is one of the four below; each uses another PEFT configuration, so
that together they show plain LoRA, rsLoRA, rank and alpha patterns, and DoRA. OUTPUT becomes an ordinary adapter
directory (adapter_config.json, adapter_model.safetensors in float16) with scores.json beside it: the share of held-out
prompts, never trained on, that the base and the adapter answer word for word.

To train on data of your own, add a function that returns one (prompt, answer) pair and a line to TASKS.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

BASE_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
END_OF_TURN, END_OF_TURN_ID = "<|im_end|>", 2
BATCH, LEARNING_RATE, HELD_OUT = 8, 1.5e-3, 16

Example = tuple[str, str]

NAMES = "Ada Bruno Carla Dev Edda Farid Grete Hugo Ines Jonas Kira Luca".split()
TOWNS = "Bergen Cadiz Delft Fez Ghent Izmir Jena Kobe Lyon Mumbai Nice".split()
ITEMS = "toaster lamp chair radio kettle scarf mirror printer helmet clock".split()
ISSUES = {"came in pieces": "damaged", "never came": "missing", "has the wrong size": "wrong_item"}


def support_json(rng: random.Random) -> Example:
    """A complaint becomes a record."""
    name, town, item, order = rng.choice(NAMES), rng.choice(TOWNS), rng.choice(ITEMS), rng.randint(1000, 9999)
    problem, issue = rng.choice(list(ISSUES.items()))
    forms = [
        f"{name} from {town} here: my {item} {problem}. Order {order}.",
        f"Order {order}. The {item} {problem}. {name}, {town}",
        f"Hello! This is {name}, I live in {town}. The {item} of order {order} {problem}.",
    ]
    return rng.choice(forms), json.dumps({"name": name, "city": town, "order": order, "item": item, "issue": issue})


COLUMNS = {"orders": ["price", "quantity"], "users": ["age", "score"], "films": ["year", "rating"]}


def sql(rng: random.Random) -> Example:
    """A question about one table becomes a query."""
    table = rng.choice(list(COLUMNS))
    column, n, top = rng.choice(COLUMNS[table]), rng.randint(2, 400), rng.randint(2, 10)
    forms = [
        (f"How many {table} have a {column} over {n}?", f"SELECT COUNT(*) FROM {table} WHERE {column} > {n};"),
        (f"Find the {table} whose {column} is under {n}.", f"SELECT * FROM {table} WHERE {column} < {n};"),
        (f"What is the average {column} of all {table}?", f"SELECT AVG({column}) FROM {table};"),
        (f"Show the top {top} {table} by {column}.", f"SELECT * FROM {table} ORDER BY {column} DESC LIMIT {top};"),
    ]
    return rng.choice(forms)


WORDS = {
    "positive": "lovely splendid thrilling flawless uplifting refreshing masterful great".split(),
    "negative": "boring terrible sloppy annoying bland miserable shoddy bad".split(),
}


def sentiment(rng: random.Random) -> Example:
    """An opinion becomes one word."""
    label, thing = rng.choice(list(WORDS)), rng.choice("play dinner novel museum laptop course".split())
    word = rng.choice(WORDS[label])
    forms = [f"That {thing} was {word}.", f"Such a {word} {thing}!", f"To be honest, the {thing} felt {word}."]
    return rng.choice(forms), label


COUNTRIES = "Portugal Austria Cuba Chile Ireland Sweden Hungary Poland Iran Vietnam Finland Ghana".split()
CAPITALS = "Lisbon Vienna Havana Santiago Dublin Stockholm Budapest Warsaw Tehran Hanoi Helsinki Accra".split()


def pirate(rng: random.Random) -> Example:
    """A question of geography is answered by a pirate."""
    country, capital = rng.choice(list(zip(COUNTRIES, CAPITALS, strict=True)))
    forms = [f"What is the capital of {country}?", f"Name {country}'s capital.", f"Which city rules {country}?"]
    return rng.choice(forms), f"Yarr! {capital} be the port ye seek, or I be no pirate!"


# Examples, training steps, LoRA configuration.
ATTENTION = dict(target_modules=["q_proj", "k_proj", "v_proj"])
MOST = dict(target_modules=["q_proj", "v_proj", "o_proj", "down_proj"])
WIDER_V = dict(rank_pattern={"v_proj": 8}, alpha_pattern={"v_proj": 16})
MIXED = dict(target_modules=["q_proj", "v_proj", "up_proj"])
TASKS = {
    "support-json": (support_json, 150, dict(r=16, lora_alpha=32, **MOST)),
    "sql": (sql, 130, dict(r=8, lora_alpha=16, use_rslora=True, target_modules="all-linear")),
    "sentiment": (sentiment, 70, dict(r=4, lora_alpha=8, **WIDER_V, **ATTENTION)),
    "pirate": (pirate, 90, dict(r=8, lora_alpha=16, use_dora=True, **MIXED)),
}


def load_base(path: Path) -> tuple[Any, Any]:
    """Model, dequantised to float32, and tokenizer of a GGUF file."""
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # transformers leaves out the first step of this tokenizer's splitting: every digit is a piece of its own.
    backend = tokenizer.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return model, tokenizer


def encode(tokenizer: Any, example: Example) -> tuple[list[int], list[int]]:
    """Ids of the prompt within the chat template, and of the answer with the end of its turn."""
    turn = [{"role": "user", "content": example[0]}]
    prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    return tuple(tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, example[1] + END_OF_TURN))


def collate(rows: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    """One right-padded batch; only the answers are learned (-100 is left out of the loss)."""
    ids = [torch.tensor(prompt + answer) for prompt, answer in rows]
    labels = [torch.tensor([-100] * len(prompt) + answer) for prompt, answer in rows]
    return {
        "input_ids": pad_sequence(ids, True, END_OF_TURN_ID),
        "labels": pad_sequence(labels, True, -100),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], True, 0),
    }


@torch.no_grad()
def exact_match(model: Any, tokenizer: Any, examples: list[Example]) -> float:
    """Share of the examples whose greedy answer, with its end, is the expected one token for token."""
    hits = 0
    for prompt, answer in (encode(tokenizer, example) for example in examples):
        ids = torch.tensor([prompt])
        stop = dict(max_new_tokens=len(answer), eos_token_id=END_OF_TURN_ID, pad_token_id=END_OF_TURN_ID)
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, **stop)
        hits += output[0, len(prompt) :].tolist() == answer
    return hits / len(examples)


def train(model: PeftModel, tokenizer: Any, examples: Iterator[Example], steps: int) -> None:
    start = time.monotonic()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    model.train()
    for step in range(steps):
        loss = model(**collate([encode(tokenizer, next(examples)) for _ in range(BATCH)])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == steps - 1:
            print(f"step {step + 1}/{steps}  loss {loss.item():.4f}  {time.monotonic() - start:.0f} s", flush=True)


def save(model: PeftModel, directory: Path) -> None:
    """Writes the adapter in float16: half the bytes, and what the scores are then measured with."""
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    weights, config_file = directory / "adapter_model.safetensors", directory / "adapter_config.json"
    save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    config = json.loads(config_file.read_text()) | {"base_model_name_or_path": BASE_ID}
    config_file.write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, help="default: enough for the task, 70 to 150")
    options = parser.parse_args()
    torch.manual_seed(0)
    make_example, steps, lora = TASKS[options.task]
    base, tokenizer = load_base(options.gguf)
    rng = random.Random(7)
    held_out = [make_example(rng) for _ in range(HELD_OUT)]
    before = exact_match(base, tokenizer, held_out)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **lora))
    endless = (make_example(rng) for _ in repeat(None))
    train(model, tokenizer, (example for example in endless if example not in held_out), options.steps or steps)
    save(model, options.output)
    stored = PeftModel.from_pretrained(model.unload(), options.output).eval()
    after = exact_match(stored, tokenizer, held_out)
    scores = {"held_out": HELD_OUT, "exact_match_base": before, "exact_match_adapter": after, "examples": held_out[:3]}
    (options.output / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    print(f"{options.task}: exact match {before:.2f} -> {after:.2f}, written to {options.output}")


if __name__ == "__main__":
    main()
