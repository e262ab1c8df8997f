import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import type { Chat } from '../../../src/chat/chat-template.js';
import type { AdapterText } from '../../../src/core/adapter-text.js';
import { ModelText } from '../../../src/generation/model-text.js';
import { ModelTexts } from '../../../src/generation/model-texts.js';
import { collect } from '../../../src/generation/service.js';
import type { GenerationSpec } from '../../../src/generation/spec.js';
import { adapterText } from '../../helpers/adapter-text.js';
import { ByteTokenizer, SPECIAL } from '../../helpers/byte-tokenizer.js';
import { coded } from '../adapters/support.js';
import { bench, noSignal, SPEC } from './support.js';

const OWN = adapterText({ prefix: '>', eosTokenIds: [0x2e], sharesVocabulary: false });
const NAMED: GenerationSpec = { ...SPEC, adapter: 'mine' };
const CHAT: Chat = {
  messages: [{ role: 'user', content: 'hi' }],
  tools: null,
  toolFormat: null,
  addGenerationPrompt: true,
  continueFinalMessage: false,
  kwargs: {},
};

function textOf(ids: Uint32Array | undefined): string {
  return String.fromCharCode(...(ids ?? []));
}

test('a prompt is made again with the text of its adapter, and the next one with it at once', async () => {
  const { engine, service } = bench();
  const generation = await service.start(NAMED, noSignal());
  const call = await engine.call(0);
  assert.equal(call.request.textDigest, null);
  await call.ask(OWN);
  assert.equal(call.submissions.length, 2);
  assert.equal(call.request.id, call.submissions[0]?.id);
  assert.equal(call.request.textDigest, OWN.digest);
  assert.equal(textOf(call.request.promptIds), '>hi');
  assert.deepEqual(call.request.stopIds, [0x2e]);
  call.admit().tokens('ok.').finish('eos_token');
  const { result } = await collect(generation);
  assert.deepEqual([result.text, result.stop, result.promptTokens], ['OK', null, 3]);
  assert.equal(generation.text.digest, OWN.digest);
  await service.start(NAMED, noSignal());
  assert.equal((await engine.call(1)).request.textDigest, OWN.digest);
  await service.start(SPEC, noSignal());
  assert.equal((await engine.call(2)).request.textDigest, null);
});

test('what a name used last is a guess: it may have moved to other files, or to files without any text', async () => {
  const { engine, service } = bench();
  const other = adapterText({ digest: 'f'.repeat(64), prefix: '#' });
  await service.start(NAMED, noSignal());
  await (await engine.call(0)).ask(OWN);
  await service.start(NAMED, noSignal());
  const second = await (await engine.call(1)).ask(other);
  assert.deepEqual(
    second.submissions.map(({ promptIds }) => textOf(promptIds)),
    ['>hi', '#hi'],
  );
  await service.start(NAMED, noSignal());
  const third = await (await engine.call(2)).ask(null);
  assert.deepEqual(
    third.submissions.map(({ promptIds }) => textOf(promptIds)),
    ['#hi', 'hi'],
  );
  await service.start(NAMED, noSignal());
  assert.equal((await engine.call(3)).request.textDigest, null);
});

test('a request is made again once at most', async () => {
  const { engine, service, summaries } = bench();
  const generation = await service.start(NAMED, noSignal());
  const call = await (await engine.call(0)).ask(OWN);
  call.tell(null);
  await assert.rejects(collect(generation), coded('ERR_STEP_FAILED'));
  assert.ok(call.aborted);
  assert.equal(call.submissions.length, 2);
  assert.equal(summaries.length, 1);
});

test('a constraint with another vocabulary is refused, and the adapter let go', async () => {
  const { engine, service, summaries } = bench();
  const spec: GenerationSpec = { ...NAMED, constraint: { kind: 'regex', pattern: 'a' } };
  const generation = await service.start(spec, noSignal());
  const call = await engine.call(0);
  call.tell(OWN);
  await assert.rejects(collect(generation), coded('ERR_VALIDATION'));
  assert.ok(call.aborted);
  assert.equal(call.submissions.length, 1);
  assert.equal(summaries[0]?.code, 'ERR_VALIDATION');
  await service.start({ ...spec, adapter: 'other' }, noSignal());
  const shared = await (await engine.call(1)).ask(adapterText({ digest: 'a' }));
  assert.notEqual(shared.request.constraint, null);
  engine.textOf = () => OWN;
  await assert.rejects(collect(await service.start(spec, noSignal())), coded('ERR_VALIDATION'));
});

test('a conversation goes by the template of the adapter, also where the base has none', async () => {
  const { engine, service } = bench();
  engine.textOf = null;
  const spec: GenerationSpec = { ...NAMED, prompt: { chat: CHAT, addSpecialTokens: false } };
  const text = adapterText({ template: 'T{{ messages[0].content }}' });
  const generation = await service.start(spec, noSignal());
  const call = await engine.call(0);
  assert.equal(call.request.textDigest, '');
  await call.ask(text);
  assert.equal(textOf(call.request.promptIds), 'Thi');
  call.answer('ok');
  assert.equal((await collect(generation)).result.text, 'ok');
  assert.equal(generation.template?.source, text.template);
});

test('what no text can make a prompt of is refused as the text that is there refuses it', async () => {
  const { engine, service, rejected } = bench();
  const chat: GenerationSpec = { ...NAMED, prompt: { chat: CHAT, addSpecialTokens: false } };
  await assert.rejects(collect(await service.start(chat, noSignal())), coded('ERR_TEMPLATE_MISSING'));
  const long: GenerationSpec = { ...NAMED, maxNewTokens: 63 };
  await assert.rejects(collect(await service.start(long, noSignal())), coded('ERR_PROMPT_TOO_LONG'));
  assert.ok(engine.calls.every(({ aborted, submissions }) => aborted && submissions.length === 1));
  await assert.rejects(service.start({ ...chat, adapter: SPEC.adapter }, noSignal()), coded('ERR_TEMPLATE_MISSING'));
  assert.deepEqual(rejected, ['ERR_TEMPLATE_MISSING']);
});

test('a client that leaves meanwhile ends it', async () => {
  const { engine, service } = bench();
  const generation = await service.start(NAMED, noSignal());
  const call = await engine.call(0);
  call.tell(OWN);
  generation.abort();
  await turn();
  assert.ok(call.aborted);
  assert.equal(call.submissions.length, 1);
});

interface Opened {
  readonly texts: ModelTexts;
  readonly opened: string[];
}

function texts(maxBytes: number): Opened {
  const opened: string[] = [];
  const base = new ModelText(new ByteTokenizer(), {
    digest: null,
    template: null,
    specialTokens: {},
    eosTokenIds: [SPECIAL['</s>']],
    sharesVocabulary: true,
  });
  const openTokenizer = async (json: Uint8Array): Promise<ByteTokenizer> => {
    const name = new TextDecoder().decode(json.slice());
    opened.push(name);
    if (name.startsWith('bad')) throw new Error('bad');
    return new ByteTokenizer();
  };
  return { texts: new ModelTexts({ base, openTokenizer, maxBytes }), opened };
}

/** Keeps 100 bytes. */
function sized(name: string): AdapterText {
  return adapterText({ digest: name, template: null, prefix: name.padEnd(100) });
}

test('texts are opened once, and kept within a bound on their bytes, those used last', async () => {
  const { texts: kept, opened } = texts(250);
  const [a, b, c] = [sized('a'), sized('b'), sized('c')];
  const [first, again] = await Promise.all([kept.of('x', a), kept.of('y', a)]);
  assert.equal(first, again);
  await kept.of('x', b);
  await kept.of('y', a);
  await kept.of('z', c);
  assert.equal(await kept.of('y', a), first);
  await kept.of('x', b);
  assert.deepEqual(
    opened.map((name) => name.trim()),
    ['a', 'b', 'c', 'b'],
  );
  const { texts: small, opened: all } = texts(10);
  await small.of('x', a);
  assert.equal((await small.guess('x')).digest, 'a');
  assert.equal((await small.guess('other')).digest, null);
  assert.equal(all.length, 1);
});

test('a text that cannot be opened is tried again', async () => {
  const { texts: kept, opened } = texts(250);
  await assert.rejects(kept.of('x', sized('bad')), coded('ERR_TOKENIZER'));
  await turn();
  await assert.rejects(kept.of('x', sized('bad')), coded('ERR_TOKENIZER'));
  assert.equal(opened.length, 2);
});
