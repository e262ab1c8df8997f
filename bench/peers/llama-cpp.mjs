/**
 * llama.cpp through node-llama-cpp as a contender of bench/: answers the jobs of bench/contenders/protocol.ts.
 *
 * Usage: llama-cpp.mjs --gguf FILE --adapters DIR --threads N. Each adapter's directory holds `adapter.gguf`.
 *
 * A LoRA belongs to a context here, and a context's batch cannot mix adapters. Rows of one adapter are sequences of one
 * context and decode in one batch; each further adapter has a context of its own, all over one copy of the weights, and
 * contexts run one after another with all threads.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { getLlama, LlamaLogLevel } from 'node-llama-cpp';

const BASE_NAME = '__base__';
const GREEDY = { generateNext: { token: true, options: { temperature: 0 } } };

const { values } = parseArgs({
  options: { gguf: { type: 'string' }, adapters: { type: 'string' }, threads: { type: 'string', default: '1' } },
});
const threads = Number(values.threads);
// `maxThreads: 0`: each evaluation has all the threads that its context asks for.
const llama = await getLlama({ gpu: false, build: 'never', maxThreads: 0, logLevel: LlamaLogLevel.error });
const model = await llama.loadModel({ modelPath: values.gguf });

/** One context an adapter, with a sequence for each of its rows. */
async function openContexts(job) {
  const rowsOf = new Map();
  for (const [row, adapter] of job.adapters.entries()) rowsOf.set(adapter, [...(rowsOf.get(adapter) ?? []), row]);
  const contexts = [];
  for (const [adapter, rows] of rowsOf) {
    const tokens = job.prompts[rows[0]].length + job.steps + 2;
    const context = await model.createContext({
      sequences: rows.length,
      contextSize: tokens,
      batchSize: Math.max(8, rows.length * job.prompts[rows[0]].length),
      threads,
      ...(adapter === BASE_NAME ? {} : { lora: join(values.adapters, adapter, 'adapter.gguf') }),
    });
    contexts.push({ context, rows: rows.map((row) => ({ row, sequence: context.getSequence() })) });
  }
  return contexts;
}

async function evaluate(sequence, tokens) {
  const last = tokens.length - 1;
  const out = await sequence.controlledEvaluate([...tokens.slice(0, last), [tokens[last], GREEDY]]);
  return out[last].next.token;
}

async function run(job) {
  const contexts = await openContexts(job);
  const last = [];
  let seconds = 0;
  /** One evaluation of every row, context by context; rows of a context as one batch. */
  const step = async (inputOf) => {
    const started = performance.now();
    for (const { rows } of contexts) {
      const chosen = await Promise.all(rows.map(({ row, sequence }) => evaluate(sequence, inputOf(row))));
      for (const [at, { row }] of rows.entries()) last[row] = chosen[at];
    }
    seconds += (performance.now() - started) / 1_000;
  };
  try {
    await step((row) => job.prompts[row]);
    const first = [...last];
    if (job.phase === 'prefill') return { tokens: job.prompts.flat().length, seconds, stepBytes: null, first };
    await step((row) => [last[row]]);
    seconds = 0;
    for (let done = 0; done < job.steps; done += 1) await step((row) => [last[row]]);
    return { tokens: job.adapters.length * job.steps, seconds, stepBytes: null, first };
  } finally {
    for (const { context } of contexts) await context.dispose();
  }
}

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const { dependencies } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
say({
  versions: { 'node-llama-cpp': dependencies['node-llama-cpp'], 'llama.cpp': llama.llamaCppRelease.release },
  settings: `the GGUF file as it is, ${threads} threads, greedy sampling inside; ${llama.systemInfo.trim()}`,
});
for await (const line of createInterface({ input: process.stdin })) {
  try {
    say(await run(JSON.parse(line)));
  } catch (error) {
    say({ error: String(error) });
  }
}
process.exit(0);
