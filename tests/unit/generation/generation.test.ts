import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { LoramuxError } from '../../../src/core/errors.js';
import { collect } from '../../../src/generation/service.js';
import type { GenerationEvent } from '../../../src/generation/spec.js';
import { SPECIAL } from '../../helpers/byte-tokenizer.js';
import { bench, noSignal, SPEC } from './support.js';

test('every event comes in order, and the last token with the finish', async () => {
  const { engine, service, summaries } = bench();
  const generation = await service.start(SPEC, noSignal());
  engine.calls[0]?.answer('ok');
  const events: GenerationEvent[] = [];
  for await (const event of generation) events.push(event);
  assert.deepEqual(
    events.map(({ kind }) => kind),
    ['admitted', 'token', 'token', 'finish'],
  );
  const last = events.at(-1);
  assert.ok(last?.kind === 'finish');
  assert.deepEqual(last.token, {
    id: SPECIAL['</s>'],
    text: '</s>',
    special: true,
    logprob: -0.5,
    top: [],
    speculated: false,
  });
  assert.equal(last.delta, '');
  assert.equal(last.result.text, 'ok');
  assert.equal(summaries.length, 1);
  assert.equal(summaries[0]?.code, null);
});

test('an end token that is not special stays out of the text all the same', async () => {
  const { engine, service } = bench(undefined, { eosTokenIds: [0x2e] });
  const generation = await service.start(SPEC, noSignal());
  engine.calls[0]?.admit().tokens('a.').finish('eos_token');
  const { result, tokens } = await collect(generation);
  assert.equal(result.text, 'a');
  assert.equal(tokens[1]?.text, '.');
});

test('without includeStop the stop string and all that may begin it stay out', async () => {
  const { engine, service } = bench();
  const generation = await service.start({ ...SPEC, stop: ['END'], includeStop: false }, noSignal());
  engine.calls[0]?.admit().tokens('aEbEND');
  const deltas: string[] = [];
  for await (const event of generation) if ('delta' in event) deltas.push(event.delta);
  assert.deepEqual(deltas, ['a', '', 'Eb', '', '', '']);
});

test('text held back for a stop string that never comes is released at the end', async () => {
  const { engine, service } = bench();
  const spec = { ...SPEC, stop: ['END'], includeStop: false, maxNewTokens: 3 };
  const generation = await service.start(spec, noSignal());
  engine.calls[0]?.admit().tokens('aEN').finish('length');
  assert.equal((await collect(generation)).result.text, 'aEN');
});

test('a token after the supposed last one is passed on, not lost', async () => {
  const { engine, service } = bench();
  const generation = await service.start(SPEC, noSignal());
  engine.calls[0]?.admit().token(SPECIAL['</s>']).tokens('x').token(SPECIAL['</s>']).finish('eos_token');
  const { result, tokens } = await collect(generation);
  assert.equal(tokens.length, 3);
  assert.equal(result.text, 'x');
});

test('leaving the loop frees the engine and ends the generation once', async () => {
  const { engine, service, summaries } = bench();
  const generation = await service.start(SPEC, noSignal());
  engine.calls[0]?.admit().tokens('abc');
  for await (const event of generation) if (event.kind === 'token') break;
  assert.equal(engine.calls[0]?.aborted, true);
  generation.abort();
  assert.deepEqual(
    summaries.map(({ code, generatedTokens }) => ({ code, generatedTokens })),
    [{ code: 'ERR_ABORTED', generatedTokens: 3 }],
  );
});

test('an abort wakes a reader that waits', async () => {
  const { engine, service } = bench();
  const controller = new AbortController();
  const reading = collect(await service.start(SPEC, controller.signal));
  controller.abort();
  await assert.rejects(reading, { code: 'ERR_ABORTED' });
  assert.equal(engine.calls[0]?.aborted, true);
});

test('an abort while the prompt is tokenized submits nothing', async () => {
  const { engine, service, rejected } = bench();
  const controller = new AbortController();
  const starting = service.start(SPEC, controller.signal);
  controller.abort();
  await assert.rejects(starting, { code: 'ERR_ABORTED' });
  assert.equal(engine.calls.length, 0);
  assert.deepEqual(rejected, ['ERR_ABORTED']);
});

test('a constraint needs the end token: ignoring it is refused before anything is submitted', async () => {
  const { engine, service, rejected } = bench();
  const spec = { ...SPEC, constraint: { kind: 'json_object' } as const };
  await assert.rejects(service.start({ ...spec, ignoreEos: true }, noSignal()), (error: LoramuxError) => {
    return error.code === 'ERR_VALIDATION' && error.details?.field === 'constraint';
  });
  assert.equal(engine.calls.length, 0);
  assert.deepEqual(rejected, ['ERR_VALIDATION']);
  const generation = await service.start(spec, noSignal());
  assert.deepEqual(engine.calls[0]?.request.constraint, spec.constraint);
  generation.abort();
});

test('an engine that refuses at once rejects the start', async () => {
  const { engine, service, rejected } = bench();
  engine.submit = () => {
    throw new LoramuxError('ERR_DRAINING', 'no more');
  };
  await assert.rejects(service.start(SPEC, noSignal()), { code: 'ERR_DRAINING' });
  assert.deepEqual(rejected, ['ERR_DRAINING']);
});

test('an engine that answers within submit is heard', async () => {
  const { engine, service } = bench();
  engine.onSubmit = (call) => call.admit().tokens('a.b');
  const generation = await service.start({ ...SPEC, stop: ['.'] }, noSignal());
  assert.equal((await collect(generation)).result.text, 'a.');
  assert.equal(engine.calls[0]?.aborted, true);
});

test('a reader that does not read is cut, and told why when it reads again', async () => {
  const { engine, service, summaries } = bench(1_000);
  const generation = await service.start(SPEC, noSignal());
  engine.calls[0]?.admit().tokens('abcdefgh');
  assert.equal(engine.calls[0]?.aborted, true);
  assert.equal(summaries[0]?.slowConsumer, true);
  await assert.rejects(collect(generation), /more than 1000 bytes/);
});

test('times are the clock of the main thread, and the engine cannot move them out of order', async () => {
  const { engine, service, clock, gaps } = bench();
  const start = clock.atMs;
  const generation = await service.start({ ...SPEC, maxNewTokens: 3 }, noSignal());
  const call = engine.calls[0];
  clock.atMs = start + 10_000;
  call?.admit();
  clock.atMs += 100;
  call?.token(65);
  clock.atMs += 250;
  call?.token(65);
  clock.atMs += 750;
  call?.token(65).finish('length');
  const { times } = (await collect(generation)).result;
  assert.ok(times.admittedMs !== null && times.admittedMs >= start && times.admittedMs <= start + 10_000);
  assert.equal(times.firstTokenMs, start + 10_100);
  assert.equal(times.endedMs, start + 11_100);
  assert.deepEqual(gaps, [0.25, 0.75]);
});

/** Whatever an engine does, right or wrong. */
const chaos = fc.array(
  fc.oneof(
    fc.constant('admit' as const),
    fc.constantFrom('a', 'é', 'stop', '</s>'),
    fc.constantFrom('!finish' as const, '!error' as const, '!abort' as const),
  ),
  { maxLength: 20 },
);

test('there is exactly one end, whatever the engine and the client do', async () => {
  await fc.assert(
    fc.asyncProperty(chaos, async (actions) => {
      const { engine, service, summaries } = bench();
      const controller = new AbortController();
      const generation = await service.start({ ...SPEC, stop: ['op'], maxNewTokens: 12 }, controller.signal);
      const call = engine.calls[0];
      for (const action of actions) {
        if (action === 'admit') call?.admit();
        else if (action === '!finish') call?.finish('length');
        else if (action === '!error') call?.fail('ERR_STEP_FAILED', 'x');
        else if (action === '!abort') controller.abort();
        else if (action === '</s>') call?.token(SPECIAL['</s>']);
        else call?.tokens(action);
      }
      controller.abort();
      const outcome = await collect(generation).then(
        ({ result }) => result.reason,
        (error: LoramuxError) => error.code,
      );
      assert.equal(summaries.length, 1);
      assert.equal(summaries[0]?.code ?? null, outcome.startsWith('ERR_') ? outcome : null);
      assert.equal(engine.calls[0]?.aborted, true, 'the engine side is freed');
    }),
  );
});
