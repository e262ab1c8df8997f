import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { BASE_NAME } from '../../src/core/names.js';
import type { GenerateRequest, PromptLogprobs, TopLogprobs } from '../../src/core/request.js';
import { DirectEngine, type DirectOptions } from '../helpers/direct-engine.js';
import { prepareLocal, SYNTHETIC, SYNTHETIC_TOKENS, syntheticModel } from '../helpers/synthetic.js';
import { likeliest, logSoftmax } from '../reference/sampler.js';

const TOP = 4;
const ADAPTERS = [BASE_NAME, 'plain', 'rslora', 'all-linear'];
const PROMPT = Array.from({ length: 37 }, (_, at) => (at * 53 + 11) % SYNTHETIC_TOKENS);

let engine: DirectEngine;
/** By adapter: the log-probabilities of every token after each beginning of the prompt. */
const expected = new Map<string, number[][]>();

async function open(options: Partial<DirectOptions> = {}): Promise<DirectEngine> {
  const model = await prepareLocal(join(SYNTHETIC, syntheticModel('llama-gqa-tied').path), 'f32');
  return DirectEngine.open({ model, adapterRoots: [join(SYNTHETIC, 'adapters', 'llama-gqa-tied')], ...options });
}

before(async () => {
  engine = await open();
  for (const adapter of ADAPTERS) {
    // Each beginning is a prompt of its own: nothing of this goes through the scoring of rows.
    const beginnings = PROMPT.slice(1).map((_, at) => engine.request(adapter, PROMPT.slice(0, at + 1), 1));
    const outcomes = await engine.run(beginnings, { logits: true });
    const rows = outcomes.map(({ logits }) => (logits[0] as Float32Array).subarray(0, SYNTHETIC_TOKENS));
    expected.set(adapter, rows.map(logSoftmax));
  }
});
after(() => engine.close());

function scoring(adapter: string, maxNewTokens: number, prompt = PROMPT, top = TOP): GenerateRequest {
  return { ...engine.request(adapter, prompt, maxNewTokens), promptLogprobs: { top } };
}

function checkPrompt({ adapter, promptIds, promptLogprobs }: GenerateRequest, prompt: PromptLogprobs | null): void {
  assert.ok(prompt !== null, `${adapter}: the prompt is reported`);
  assert.equal(prompt.logprobs.length, promptIds.length);
  assert.ok(Number.isNaN(prompt.logprobs[0]));
  const top = promptLogprobs?.top ?? 0;
  assert.equal(prompt.top?.length ?? 0, top === 0 ? 0 : promptIds.length);
  assert.equal(prompt.top?.[0]?.ids.length ?? 0, 0);
  for (const [at, id] of [...promptIds].entries()) {
    if (at === 0) continue;
    const wanted = (expected.get(adapter) as number[][])[at - 1] as number[];
    const close = (found: number | undefined, token: number): void =>
      assert.ok(
        Math.abs((found as number) - (wanted[token] as number)) < 1e-4,
        `${adapter}: ${at}, ${token}: ${found}`,
      );
    close(prompt.logprobs[at], id);
    const list = likeliest(wanted, top);
    const found: TopLogprobs | undefined = prompt.top?.[at];
    assert.deepEqual(
      [...(found?.ids ?? [])],
      list.map(({ token }) => token),
      `${adapter}: alternatives at ${at}`,
    );
    for (const [rank, { token }] of list.entries()) close(found?.logprobs[rank], token);
  }
}

test('prompts are scored in a mixed batch, whatever the chunks, beside requests that are not', async () => {
  const plain = ADAPTERS.map((adapter) => engine.request(adapter, PROMPT, 12));
  const alone = await engine.run(plain);
  for (const maxBatchTokens of [256, 64, 9]) {
    const chunked = await open({ maxBatchTokens, maxSequences: 9 });
    const requests = ADAPTERS.flatMap((adapter, at) => [
      scoring(adapter, 12, PROMPT, at),
      chunked.request(adapter, PROMPT, 12),
      scoring(adapter, 0, PROMPT.slice(0, 20 + at)),
    ]);
    const unique = requests.map((request, id) => ({ ...request, id: 1_000 + id }));
    const outcomes = await chunked.run(unique);
    for (const [i, outcome] of outcomes.entries()) {
      const request = unique[i] as GenerateRequest;
      if (request.promptLogprobs === null) assert.equal(outcome.prompt, null);
      else checkPrompt(request, outcome.prompt);
      const tokens = request.maxNewTokens === 0 ? [] : alone[Math.floor(i / 3)]?.tokens;
      assert.deepEqual(outcome.tokens, tokens, `batch ${maxBatchTokens}: scoring changes no token`);
    }
    await chunked.close();
  }
});

test('preemption scores nothing twice and nothing wrong', async () => {
  // Six sequences of up to 57 tokens in blocks for two and a half: whoever came last is preempted, some while prefilling.
  const crowded = await open({ kvBlocks: 9, maxBatchTokens: 12, maxSequences: 6 });
  const requests = Array.from({ length: 6 }, (_, at) => ({
    ...scoring(ADAPTERS[at % ADAPTERS.length] as string, 20),
    id: 2_000 + at,
  }));
  const outcomes = await crowded.run(requests);
  for (const [i, { prompt, tokens }] of outcomes.entries()) {
    checkPrompt(requests[i] as GenerateRequest, prompt);
    assert.equal(tokens.length, 20);
  }
  assert.ok(crowded.preemptions > 0, 'someone was preempted');
  await crowded.close();
});

test('one token has nothing to score; it is reported all the same', async () => {
  const [scored, more] = await engine.run([scoring(BASE_NAME, 0, [5]), scoring(BASE_NAME, 3, [5])]);
  for (const outcome of [scored, more]) assert.deepEqual([...(outcome?.prompt?.logprobs ?? [])], [Number.NaN]);
  assert.deepEqual([scored?.tokens.length, more?.tokens.length], [0, 3]);
});
