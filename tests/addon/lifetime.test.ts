import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { lastSampledBy, type StepBatch, type StepOutput } from '../../src/core/step.js';
import { runChild } from '../helpers/child.js';
import { sameBits } from '../helpers/compare.js';
import { compileRaw, LONG, longBatch, openRaw, promptBatch } from '../helpers/raw-engine.js';

const CLOSED = { code: 'ERR_ENGINE_CLOSED' };
const TOKENS = [5, 6, 7];

function logits(output: StepOutput): Float32Array {
  assert.ok(output.logits !== null);
  return output.logits;
}

/** Of a long step on an engine of its own. */
async function firstLogits(): Promise<Float32Array> {
  const { engine } = await openRaw(LONG);
  const output = await engine.step(longBatch());
  await engine.close();
  return logits(output);
}

describe('one step runs, one waits', () => {
  test('two steps in flight answer in their order, a third is refused, and none is disturbed', async () => {
    const { engine } = await openRaw(LONG);
    const long = logits(await engine.step(longBatch()));
    const short = logits(await engine.step(promptBatch(TOKENS)));
    const refusal = { code: 'ERR_STEP_FAILED', message: '2 steps are in flight: wait for one before the next' };
    let refused = 0;
    for (let round = 0; refused === 0 && round < 10; round += 1) {
      const order: string[] = [];
      const first = engine.step(longBatch()).finally(() => order.push('first'));
      const second = engine.step(promptBatch(TOKENS)).finally(() => order.push('second'));
      try {
        await engine.step(promptBatch(TOKENS));
        // This thread was held up for so long that the first step had ended.
      } catch (error) {
        assert.ok(error instanceof Error);
        assert.deepEqual({ code: (error as { code?: unknown }).code, message: error.message }, refusal);
        refused += 1;
      }
      assert.ok(sameBits(logits(await first), long));
      assert.ok(sameBits(logits(await second), short));
      assert.deepEqual(order, ['first', 'second']);
    }
    assert.equal(refused, 1);
    await engine.step(promptBatch(TOKENS));
    await engine.close();
  });

  test('a step fed by the one in flight goes on with its token; a failed one before it leaves it a row of token 0', async () => {
    const { engine } = await openRaw(LONG);
    const prompt = promptBatch(TOKENS);
    const [row] = prompt.sampling;
    assert.ok(row !== undefined);
    const sampling = [{ ...row, slot: 3 }];
    const next = (token: number): StepBatch => ({
      ...prompt,
      tokens: Int32Array.of(token),
      cuSeqlens: Int32Array.of(0, 1),
      contextLens: Int32Array.of(TOKENS.length + 1),
      slotMapping: Int32Array.of((prompt.slotMapping[TOKENS.length - 1] as number) + 1),
      segmentIndptr: Int32Array.of(0, 1),
      logitsRows: Int32Array.of(0),
    });
    const [{ tokens }, fed] = await Promise.all([
      engine.step({ ...prompt, sampling }),
      engine.step(next(lastSampledBy(3))),
    ]);
    const known = await engine.step(next(tokens[0] as number));
    assert.ok(sameBits(logits(fed), logits(known)));
    assert.deepEqual(fed.tokens, known.tokens);

    const wrong = engine.step({ ...prompt, sampling, contextLens: Int32Array.of(2 ** 20) });
    const behind = engine.step(next(lastSampledBy(5)));
    await assert.rejects(wrong, { code: 'ERR_STEP_FAILED' });
    assert.ok(sameBits(logits(await behind), logits(await engine.step(next(0)))));
    await engine.close();
  });

  test('two engines of one process step at the same time', async () => {
    const [a, b] = await Promise.all([openRaw(LONG), openRaw(LONG)]);
    const alone = logits(await a.engine.step(longBatch()));
    const both = await Promise.all([a.engine.step(longBatch()), b.engine.step(longBatch())]);
    for (const output of both) assert.ok(sameBits(logits(output), alone));
    await a.engine.close();
    assert.ok(sameBits(logits(await b.engine.step(longBatch())), alone), 'one closes, the other steps on');
    await b.engine.close();
  });

  test('handles belong to their engine', async () => {
    const [a, b] = await Promise.all([openRaw(), openRaw()]);
    const { handle } = await compileRaw(a);
    await assert.rejects(async () => b.engine.step(promptBatch(TOKENS, handle)), { code: 'ERR_STEP_FAILED' });
    assert.equal(b.engine.adapterMemory().count, 0);
    await Promise.all([a.engine.close(), b.engine.close()]);
  });
});

describe('closing', () => {
  test('a closed engine refuses steps and adapters, and closes again quietly', async () => {
    const raw = await openRaw();
    const { engine } = raw;
    const { handle } = await compileRaw(raw);
    await engine.close();
    await assert.rejects(async () => engine.step(promptBatch(TOKENS)), CLOSED);
    await assert.rejects(() => compileRaw(raw), CLOSED);
    engine.releaseAdapter(handle);
    assert.deepEqual(engine.adapterMemory(), { bytes: 0, count: 0 });
    await Promise.all([engine.close(), engine.close()]);
  });

  test('a step in flight ends well although the engine is told to close', async () => {
    const wanted = await firstLogits();
    for (let round = 0; round < 20; round += 1) {
      const { engine } = await openRaw(LONG);
      const step = engine.step(longBatch());
      const closed = Promise.all([engine.close(), engine.close()]);
      assert.ok(sameBits(logits(await step), wanted));
      await closed;
      await assert.rejects(async () => engine.step(promptBatch(TOKENS)), CLOSED);
    }
  });

  test('an adapter that is compiled while the engine closes is refused or freed', async () => {
    for (let round = 0; round < 10; round += 1) {
      const raw = await openRaw();
      const compiled = compileRaw(raw).catch((error: unknown) => error);
      await sleep(round / 5);
      await raw.engine.close();
      const result = await compiled;
      if (result instanceof Error) assert.equal((result as { code?: unknown }).code, 'ERR_ENGINE_CLOSED');
      assert.deepEqual(raw.engine.adapterMemory(), { bytes: 0, count: 0 });
    }
  });
});

describe('releasing adapters', () => {
  test('one in use by a step is freed after the step, whose result does not change', async () => {
    const raw = await openRaw(LONG);
    const { engine } = raw;
    const first = await compileRaw(raw);
    assert.deepEqual(engine.adapterMemory(), { bytes: first.bytes, count: 1 });
    const wanted = logits(await engine.step(longBatch(first.handle)));
    assert.ok(!sameBits(wanted, logits(await engine.step(longBatch()))), 'the adapter has a say');
    engine.releaseAdapter(first.handle);

    const handles = new Set([first.handle]);
    let finished = 0;
    for (let round = 0; round < 20; round += 1) {
      const { handle } = await compileRaw(raw);
      assert.ok(!handles.has(handle), 'handles are never used twice');
      handles.add(handle);
      const step = engine.step(longBatch(handle));
      await sleep(1 + (round % 4));
      engine.releaseAdapter(handle);
      try {
        assert.ok(sameBits(logits(await step), wanted));
        finished += 1;
      } catch (error) {
        // The release overtook a step that had not begun: it is refused, never run with something else.
        assert.equal((error as { code?: unknown }).code, 'ERR_STEP_FAILED', String(error));
        assert.match(String(error), new RegExp(`adapter handle ${handle} is not resident`));
      }
      assert.deepEqual(engine.adapterMemory(), { bytes: 0, count: 0 });
    }
    assert.ok(finished > 0, 'no step outlived the release of its adapter');
    await assert.rejects(async () => engine.step(longBatch(first.handle)), { code: 'ERR_STEP_FAILED' });
    await engine.close();
  });

  test('loads and releases beside steps leave nothing behind', async () => {
    const raw = await openRaw(LONG);
    const kept = await compileRaw(raw);
    const wanted = logits(await raw.engine.step(longBatch(kept.handle)));
    for (let round = 0; round < 30; round += 1) {
      const step = raw.engine.step(longBatch(kept.handle));
      const { handle } = await compileRaw(raw);
      raw.engine.releaseAdapter(handle);
      assert.ok(sameBits(logits(await step), wanted));
    }
    assert.deepEqual(raw.engine.adapterMemory(), { bytes: kept.bytes, count: 1 });
    await raw.engine.close();
  });
});

describe('processes and threads that end early', () => {
  /** Exit code 0 and the expected words: nothing crashed, nothing hung, nothing complained. */
  async function assertEndsWell(scenario: string): Promise<void> {
    const child = await runChild(new URL('./children/teardown.js', import.meta.url), { args: [scenario] });
    assert.deepEqual(
      { ...child, stdout: child.stdout.trim() },
      { code: 0, signal: null, stdout: 'survived', stderr: '' },
    );
  }

  test('a worker that is terminated during steps takes nobody with it', () => assertEndsWell('terminate-in-step'));
  test('a worker that is terminated while it opens an engine takes nobody with it', () =>
    assertEndsWell('terminate-in-open'));
  test('a worker that is terminated while adapters load takes nobody with it', () =>
    assertEndsWell('terminate-in-load'));
  test('a worker that exits by itself with an engine open and a step in flight ends', () =>
    assertEndsWell('worker-exit'));
  test('a process may end without closing its engine', () => assertEndsWell('no-close'));
  test('a process may exit while a worker steps', () => assertEndsWell('exit-in-step'));
  test('an engine that nobody holds any more is collected', () => assertEndsWell('collected'));
});
