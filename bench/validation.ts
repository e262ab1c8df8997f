/**
 * How long a completions body takes from its bytes to checked generations: parsing, every field, jobs. Prints one JSON
 * line per body, with times in microseconds. Run: node dist/bench/validation.js
 */
import { cpus } from 'node:os';
import { performance } from 'node:perf_hooks';
import { ANYONE } from '../src/core/caller.js';
import { parseJsonBody } from '../src/server/json-body.js';
import { type CompletionContext, readCompletionBody } from '../src/server/openai/completion-body.js';
import { jobsOf } from '../src/server/openai/completion-jobs.js';
import { LIMITS } from '../tests/helpers/scripted-engine.js';

const WARM_UP = 2_000;
const RUNS = 5_000;

const limits = { ...LIMITS, vocabSize: 49_152, maxModelLen: 2_048 };
const context: CompletionContext = {
  limits,
  base: ['base'],
  maxChoices: 16,
  maxBestOf: 2,
  drawSeed: () => 7n,
  requestSources: [],
};

const text = 'The quick brown fox jumps over the lazy dog. '.repeat(90);
const BODIES: Readonly<Record<string, object>> = {
  plain: { model: 'sql', prompt: text, max_tokens: 64, temperature: 0 },
  everyField: {
    model: 'base:sql',
    prompt: text,
    max_tokens: 64,
    min_tokens: 1,
    temperature: 0.7,
    top_p: 0.9,
    top_k: 40,
    min_p: 0.05,
    presence_penalty: 0.1,
    frequency_penalty: 0.1,
    repetition_penalty: 1.1,
    logit_bias: Object.fromEntries(Array.from({ length: 100 }, (_, id) => [id, 1])),
    n: 4,
    stop: ['\n\n', 'END'],
    stop_token_ids: [1, 2],
    logprobs: 5,
    echo: true,
    seed: 1234,
    stream: true,
    stream_options: { include_usage: true },
    structured_outputs: { regex: '[a-z]+' },
    user: 'someone',
  },
  tokenIds: { model: 'sql', prompt: Array.from({ length: 2_000 }, (_, at) => at), max_tokens: 8 },
  prompts: { model: 'sql', prompt: Array(128).fill('a short prompt'), n: 2 },
};

function measure(body: object): Float64Array {
  const bytes = Buffer.from(JSON.stringify(body));
  const origin = { route: '/v1/completions', caller: ANYONE };
  const times = new Float64Array(RUNS);
  for (let run = -WARM_UP; run < RUNS; run += 1) {
    const start = performance.now();
    jobsOf(readCompletionBody(parseJsonBody(bytes), context), origin);
    if (run >= 0) times[run] = (performance.now() - start) * 1_000;
  }
  return times.sort();
}

for (const [name, body] of Object.entries(BODIES)) {
  const times = measure(body);
  const at = (share: number): number => Number((times[Math.floor(share * (RUNS - 1))] as number).toFixed(1));
  const line = { bench: 'validation', body: name, p50Us: at(0.5), p99Us: at(0.99), cpu: cpus()[0]?.model };
  console.log(JSON.stringify(line));
}
