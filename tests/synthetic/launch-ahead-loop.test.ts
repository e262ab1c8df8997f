import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { LoramuxError } from '../../src/core/errors.js';
import { BASE_NAME } from '../../src/core/names.js';
import { type GenerateRequest, GREEDY_SAMPLING, PLAIN_REQUEST } from '../../src/core/request.js';
import type { NativeEngine } from '../../src/engine/binding.js';
import { LoopEngine } from '../helpers/loop-engine.js';
import { prepareLocal, SYNTHETIC, SYNTHETIC_TOKENS, syntheticModel } from '../helpers/synthetic.js';

/** An engine whose steps fail on demand, and how many of them it was handed at a time. */
interface Watched {
  readonly loop: LoopEngine;
  /** Steps to fail from the next one on. */
  failing: number;
  most: number;
}

async function open(launchAhead: boolean): Promise<Watched> {
  let inFlight = 0;
  const watched = { failing: 0, most: 0 };
  const wrap = (engine: NativeEngine): NativeEngine => ({
    blockSize: engine.blockSize,
    step: async (batch) => {
      inFlight += 1;
      watched.most = Math.max(watched.most, inFlight);
      const fails = watched.failing > 0;
      if (fails) watched.failing -= 1;
      // A failing one takes its turn, too.
      const output = await engine.step(batch).finally(() => {
        inFlight -= 1;
      });
      if (fails) throw new LoramuxError('ERR_STEP_FAILED', 'scripted');
      return output;
    },
    compileAdapter: (file, plan) => engine.compileAdapter(file, plan),
    placeAdapter: (handle, pages) => engine.placeAdapter(handle, pages),
    keepAdapter: (handle) => engine.keepAdapter(handle),
    restoreAdapter: (image, pages) => engine.restoreAdapter(image, pages),
    discardImage: (image) => engine.discardImage(image),
    releaseAdapter: (handle) => engine.releaseAdapter(handle),
    adapterMemory: () => engine.adapterMemory(),
    openConstraint: (constraint) => engine.openConstraint(constraint),
    releaseConstraint: (handle) => engine.releaseConstraint(handle),
    constraintCount: () => engine.constraintCount(),
    close: () => engine.close(),
  });
  const loop = await LoopEngine.open(
    {
      model: await prepareLocal(join(SYNTHETIC, syntheticModel('llama-gqa-tied').path), 'f32'),
      tokenCount: SYNTHETIC_TOKENS,
      adapterRoots: [],
      threads: 1,
      adapterMemoryBytes: 2 ** 20,
      kvMemoryBytes: 2 ** 22,
      maxModelLen: null,
      maxBatchTokens: 64,
      maxPrefillRows: 64,
      maxSequences: 8,
      maxQueue: 100,
      prefixCache: true,
      speculation: false,
      launchAhead,
    },
    wrap,
  );
  return Object.assign(watched, { loop });
}

let nextId = 1;
function request(maxNewTokens: number): GenerateRequest {
  return {
    id: nextId++,
    adapter: BASE_NAME,
    promptIds: Uint32Array.of(7, 30, 99),
    maxNewTokens,
    stopIds: [],
    sampling: { ...GREEDY_SAMPLING, greedy: false, temperature: 3, seed: 5n },
    ...PLAIN_REQUEST,
  };
}

test('the engine has the next step before one is done, if asked to, and answers alike', async () => {
  const answers: (readonly number[])[] = [];
  for (const launchAhead of [false, true]) {
    const watched = await open(launchAhead);
    const { loop } = watched;
    const requests = [40, 30, 20].map((tokens) => request(tokens));
    const startedMs = performance.now();
    for (const one of requests) loop.submit(one);
    for (const { id } of requests) answers.push((await loop.outcome(id)).tokens);
    const steps = loop.facts.filter((fact) => fact.kind === 'step');
    assert.ok(
      steps.every(({ stepSeconds, runSeconds }) => stepSeconds > 0 && runSeconds > 0),
      'every step takes some time',
    );
    const seconds = steps.reduce((sum, step) => sum + step.stepSeconds, 0);
    assert.ok(seconds <= (performance.now() - startedMs) / 1000, 'no time is counted twice');
    assert.equal(watched.most, launchAhead ? 2 : 1);
    await loop.stop();
  }
  assert.deepEqual(answers.slice(3), answers.slice(0, 3));
});

test('of two steps in flight one may fail: its requests end, others go on', async () => {
  const watched = await open(true);
  const { loop } = watched;
  const lost = request(200);
  loop.submit(lost);
  await loop.until(() => loop.tokensOf(lost.id).length > 3);
  assert.equal(watched.most, 2);
  watched.failing = 1;
  assert.equal((await loop.outcome(lost.id)).error?.code, 'ERR_STEP_FAILED');
  const next = request(20);
  loop.submit(next);
  const { error, tokens } = await loop.outcome(next.id);
  assert.deepEqual([error, tokens.length], [null, 20]);
  await loop.stop();
});

test('steps that keep failing end the engine', async () => {
  const watched = await open(true);
  const { loop } = watched;
  watched.failing = Number.POSITIVE_INFINITY;
  // The first takes two steps with it, the one that runs and the one behind.
  for (const lost of [request(9), request(9)]) {
    assert.equal(loop.fatal, null);
    loop.submit(lost);
    assert.equal((await loop.outcome(lost.id)).error?.code, 'ERR_STEP_FAILED');
  }
  await loop.until(() => loop.fatal !== null);
  assert.equal(loop.fatal?.code, 'ERR_STEP_FAILED');
  await loop.stop();
});

test('a stop while two steps are in flight waits for both', async () => {
  const watched = await open(true);
  const { loop } = watched;
  const left = request(200);
  loop.submit(left);
  await loop.until(() => loop.tokensOf(left.id).length > 3);
  await loop.stop();
  assert.ok(loop.tokensOf(left.id).length < 200);
});
