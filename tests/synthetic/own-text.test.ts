import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { TemplateMessage } from '../../src/chat/chat-template.js';
import { ANYONE } from '../../src/core/caller.js';
import { LoramuxError } from '../../src/core/errors.js';
import { BASE_NAME } from '../../src/core/names.js';
import { GREEDY_SAMPLING } from '../../src/core/request.js';
import { loadBinding } from '../../src/engine/addon.js';
import type { NativeTokenizer } from '../../src/engine/binding.js';
import { WorkerEngineClient } from '../../src/engine/worker-client.js';
import { type Completion, collect, GenerationService } from '../../src/generation/service.js';
import { type GenerationSpec, PLAIN_SPEC, type Prompt } from '../../src/generation/spec.js';
import { FIXTURES } from '../helpers/paths.js';
import { prepareLocal, SYNTHETIC, syntheticModel } from '../helpers/synthetic.js';

const BASE = 'llama-gqa-tied';
const OWN = join(FIXTURES, 'own-text');
const NAMES = ['template', 'vocabulary', 'added-token'] as const;

interface Cases {
  readonly eos: number;
  readonly texts: readonly {
    readonly text: string;
    readonly ids: readonly number[];
    readonly decoded: string;
  }[];
  readonly chats: readonly {
    readonly messages: readonly TemplateMessage[];
    readonly text: string;
    readonly ids: readonly number[];
  }[];
}

/** What Transformers does with each adapter's files, and the base's. */
const { cases: CASES } = JSON.parse(readFileSync(join(OWN, 'cases.json'), 'utf8')) as {
  cases: Readonly<Record<string, Cases>>;
};

const root = mkdtempSync(join(tmpdir(), 'loramux-own-text-'));
let engine: WorkerEngineClient;
let service: GenerationService;
let opened = 0;
let tokenizer: NativeTokenizer;

/** An adapter with the weights of a synthetic one and, perhaps, text files of its own. */
function place(name: string, text: string | null, weights = 'rank-17'): string {
  cpSync(join(SYNTHETIC, 'adapters', BASE, weights), join(root, name), { recursive: true });
  if (text !== null) cpSync(join(OWN, text), join(root, name), { recursive: true });
  return join(root, name);
}

before(async () => {
  for (const name of NAMES) place(name, name);
  place('plain', null);
  place('shared', 'vocabulary', 'rslora');
  const same = place('same', null);
  for (const file of ['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja']) {
    cpSync(join(SYNTHETIC, syntheticModel(BASE).path, file), join(same, file));
  }
  writeFileSync(join(place('broken', 'vocabulary'), 'tokenizer.json'), '{"model": {"type": "BPE", "vocab": {}');
  const odd = JSON.parse(readFileSync(join(OWN, 'vocabulary', 'tokenizer.json'), 'utf8'));
  writeFileSync(
    join(place('odd', 'vocabulary'), 'tokenizer.json'),
    JSON.stringify({ ...odd, normalizer: { type: 'Mystery' } }),
  );
  const model = await prepareLocal(join(SYNTHETIC, syntheticModel(BASE).path), 'f32');
  const binding = loadBinding();
  tokenizer = binding.Tokenizer.fromFile(join(model.directory, model.manifest.tokenizer.file));
  engine = await WorkerEngineClient.start({
    start: {
      model,
      tokenCount: tokenizer.vocabSize(),
      adapterRoots: [root],
      threads: 1,
      adapterMemoryBytes: 2 ** 24,
      kvMemoryBytes: 2 ** 22,
      maxModelLen: 128,
      maxBatchTokens: 64,
      maxPrefillRows: 64,
      maxSequences: 8,
      maxQueue: 64,
      prefixCache: true,
      speculation: true,
      launchAhead: true,
    },
    log: () => undefined,
  });
  service = new GenerationService({
    engine,
    tokenizer,
    openTokenizer: (json) => {
      opened += 1;
      return binding.Tokenizer.fromJson(json);
    },
    observer: { interToken: () => undefined, rejected: () => undefined, ended: () => undefined },
    now: () => performance.timeOrigin + performance.now(),
    maxBufferedBytes: 2 ** 20,
  });
});

after(async () => {
  await engine.close();
  rmSync(root, { recursive: true, force: true });
});

async function generate(adapter: string, prompt: Prompt, more: Partial<GenerationSpec> = {}): Promise<Completion> {
  const spec: GenerationSpec = {
    route: 'test',
    adapter,
    ...PLAIN_SPEC,
    caller: ANYONE,
    prompt,
    maxNewTokens: 12,
    sampling: GREEDY_SAMPLING,
    promptLogprobs: { top: 0 },
    ...more,
  };
  return collect(await service.start(spec, new AbortController().signal));
}

function asText(text: string): Prompt {
  return { text, addSpecialTokens: true };
}

function asChat(messages: readonly TemplateMessage[]): Prompt {
  const chat = { messages, tools: null, toolFormat: null, addGenerationPrompt: true, continueFinalMessage: false };
  return { chat: { ...chat, kwargs: {} }, addSpecialTokens: false };
}

function idsOf({ prompt }: Completion): number[] {
  return prompt.map(({ id }) => id);
}

/** What a test compares of two answers. */
function gist({ result, prompt, tokens }: Completion) {
  const { text, reason, stop, servedBy } = result;
  return { text, reason, stop, digest: servedBy.digest, prompt, tokens };
}

test('prompts, conversations and texts are those of Transformers for every adapter, and for the base', async () => {
  for (const [name, { texts, chats }] of Object.entries(CASES)) {
    const adapter = name === 'base' ? BASE_NAME : name;
    for (const { text, ids, decoded } of texts) {
      const answer = await generate(adapter, asText(text));
      assert.deepEqual(idsOf(answer), ids, `${name}: ${text}`);
      assert.equal(answer.prompt.map((token) => token.text).join(''), decoded, `${name}: ${text}`);
    }
    for (const { messages, ids } of chats)
      assert.deepEqual(idsOf(await generate(adapter, asChat(messages))), ids, name);
    const [{ ids = [] } = {}] = texts;
    assert.deepEqual(idsOf(await generate(adapter, { ids: Uint32Array.from(ids) })), ids);
  }
});

test('an answer ends at the end tokens of its adapter and nowhere else', async () => {
  // What the base ends with is a letter to `vocabulary`, and still the end of a message to `added-token`.
  const ends = { base: [2], template: [2], vocabulary: [1], 'added-token': [2, 279] };
  for (const [name, own] of Object.entries(ends)) {
    assert.ok(own.includes(CASES[name]?.eos ?? -1));
    for (const id of [0, 1, 2, 3, 279]) {
      // A strong bias makes the model say this token, whatever its weights.
      const sampling = { ...GREEDY_SAMPLING, logitBias: new Map([[id, 1e6]]) };
      const adapter = name === 'base' ? BASE_NAME : name;
      const { result, tokens } = await generate(adapter, asText('One'), { sampling, maxNewTokens: 2 });
      assert.equal(tokens[0]?.id, id);
      assert.equal(result.reason, own.includes(id) ? 'eos_token' : 'length', `${name}: ${id}`);
    }
  }
});

test('a batch of all of them answers as each does alone, and each tokenizer is opened once', async () => {
  const jobs = [BASE_NAME, 'plain', ...NAMES, 'shared'].flatMap((adapter) => {
    const { texts, chats } = CASES[adapter] ?? CASES.base ?? { texts: [], chats: [] };
    return [asText(texts[0]?.text ?? ''), asChat(chats[1]?.messages ?? [])].map((prompt) => ({ adapter, prompt }));
  });
  const alone: ReturnType<typeof gist>[] = [];
  for (const { adapter, prompt } of jobs) alone.push(gist(await generate(adapter, prompt)));
  const mixed = await Promise.all(jobs.map(({ adapter, prompt }) => generate(adapter, prompt)));
  assert.deepEqual(mixed.map(gist), alone);
  // `template` has the base's tokenizer, and `shared` the same files as `vocabulary`.
  assert.equal(opened, 2);
});

test('the admin API says whose text an adapter has, and counts its memory', async () => {
  for (const name of ['plain', 'same', ...NAMES]) await generate(name, asText('x'));
  const of = async (name: string) => (await engine.admin({ op: 'get', name })).text;
  assert.deepEqual(await of('plain'), { tokenizer: 'base', template: 'base', digest: null });
  assert.deepEqual(await of('same'), { tokenizer: 'base', template: 'base', digest: null });
  const [template, vocabulary] = [await of('template'), await of('vocabulary')];
  assert.deepEqual([template?.tokenizer, template?.template], ['base', 'own']);
  assert.deepEqual([vocabulary?.tokenizer, vocabulary?.template], ['own', 'own']);
  assert.match(vocabulary?.digest ?? '', /^[0-9a-f]{64}$/);
  assert.equal((await of('shared'))?.digest, vocabulary?.digest);
  const bytes = async (name: string) => (await engine.admin({ op: 'get', name })).bytes;
  const beside = (await bytes('vocabulary')) - (await bytes('plain'));
  const { length } = readFileSync(join(OWN, 'vocabulary', 'tokenizer.json'));
  // Without the white space of the file.
  assert.ok(beside > 0.4 * length && beside <= length, `${beside} bytes for a tokenizer of ${length}`);
});

test('an adapter whose tokenizer is broken is refused by name, and nothing else is', async () => {
  const others = Promise.all(['plain', 'vocabulary', BASE_NAME].map((name) => generate(name, asText('One batch'))));
  for (const [name, found] of [
    ['broken', /tokenizer\.json: expected a tokenizer\.json of the Hugging Face format, found .*JSON/],
    ['odd', /tokenizer\.json: expected a tokenizer\.json of the Hugging Face format/],
  ] as const) {
    await assert.rejects(generate(name, asText('One batch')), (error) => {
      assert.ok(error instanceof LoramuxError);
      assert.equal(error.code, 'ERR_ADAPTER_INVALID');
      assert.match(error.message, found);
      assert.doesNotMatch(error.message, /loramux-tokenizer-/);
      return true;
    });
  }
  assert.equal((await others).length, 3);
});

test('lists get the text that all members have; another vocabulary is refused beside others', async () => {
  const sum = (...names: string[]) => ({
    adapter: names.join(','),
    composition: { kind: 'sum' as const, members: names.map((name) => ({ name, weight: 0.5 })) },
  });
  const ask = (...names: string[]) => generate('', asText(CASES.vocabulary?.texts[0]?.text ?? ''), sum(...names));
  assert.deepEqual(idsOf(await ask('vocabulary', 'shared')), CASES.vocabulary?.texts[0]?.ids);
  assert.deepEqual(idsOf(await ask('template', 'plain')), CASES.base?.texts[0]?.ids);
  await assert.rejects(ask('vocabulary', 'plain'), /vocabulary ships a tokenizer with another than the rest/);
  const merge = {
    adapter: 'vocabulary,plain',
    composition: {
      kind: 'merge' as const,
      members: [
        { name: 'vocabulary', weight: 1 },
        { name: 'plain', weight: 1 },
      ],
      method: { formula: 'peft' as const, strategy: 'linear' as const, density: 0, majoritySign: 'total' as const },
    },
  };
  await assert.rejects(generate('', asText('x'), merge), /`merged_adapters`, but vocabulary ships a tokenizer/);
});

test('while an alias moves under traffic, every answer is that of the digest it names', async () => {
  const targets = ['plain', ...NAMES];
  const prompt = asText(CASES.base?.texts[1]?.text ?? '');
  const expected = new Map<string | null, ReturnType<typeof gist>>();
  for (const name of targets) {
    const answer = gist(await generate(name, prompt));
    expected.set(answer.digest, answer);
  }
  assert.equal(expected.size, targets.length);
  await engine.admin({ op: 'alias', name: 'prod', target: { adapter: 'plain' } });
  let moving = true;
  const mover = (async () => {
    for (let at = 0; moving; at += 1) {
      await engine.admin({ op: 'alias', name: 'prod', target: { adapter: targets[at % targets.length] ?? '' } });
      await delay(1);
    }
  })();
  const seen = new Set<string | null>();
  const client = async (): Promise<void> => {
    for (let round = 0; round < 12; round += 1) {
      const answer = gist(await generate('prod', prompt));
      seen.add(answer.digest);
      assert.deepEqual(answer, expected.get(answer.digest));
    }
  };
  await Promise.all(Array.from({ length: 6 }, client));
  moving = false;
  await mover;
  assert.ok(seen.size > 1, 'the alias never moved between answers');
});

test('a client that leaves while its prompt is made again holds no adapter', async () => {
  const controller = new AbortController();
  const spec = { adapter: 'vocabulary', prompt: asText('x'), caller: ANYONE, sampling: GREEDY_SAMPLING };
  const left = new GenerationService({
    engine,
    tokenizer,
    openTokenizer: async () => {
      controller.abort();
      return tokenizer;
    },
    observer: { interToken: () => undefined, rejected: () => undefined, ended: () => undefined },
    now: () => performance.timeOrigin + performance.now(),
    maxBufferedBytes: 2 ** 20,
  });
  const generation = await left.start({ route: 'test', maxNewTokens: 4, ...PLAIN_SPEC, ...spec }, controller.signal);
  await assert.rejects(collect(generation), /the client left/);
  const pins = async () => (await engine.admin({ op: 'get', name: 'vocabulary' })).pins.rows;
  for (let tries = 0; (await pins()) > 0 && tries < 200; tries += 1) await delay(5);
  assert.equal(await pins(), 0);
});
