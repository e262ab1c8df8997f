import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { LoramuxError } from '../../src/core/errors.js';
import { BASE_NAME } from '../../src/core/names.js';
import { type GenerateRequest, GREEDY_SAMPLING, PLAIN_REQUEST, type SequenceEvent } from '../../src/core/request.js';
import { WorkerEngineClient } from '../../src/engine/worker-client.js';
import {
  casesOf,
  prepareLocal,
  SYNTHETIC,
  SYNTHETIC_TOKENS,
  type SyntheticCase,
  syntheticModel,
} from '../helpers/synthetic.js';

/** What must be said about one broken input; see the fixtures' README. */
interface Expectation {
  readonly kind: 'adapter' | 'model';
  readonly base?: string;
  readonly input: string;
  readonly code: string;
  readonly mentions: readonly string[];
  readonly why: string;
}

const BAD = join(SYNTHETIC, 'bad');
const BASE = 'llama-gqa-tied';
const GOOD_ADAPTER = 'plain';
/** Fewer means that the fixtures lost some. */
const LEAST_CASES = { adapter: 62, model: 26 } as const;

const cases = readdirSync(BAD)
  .sort()
  .map((name) => ({
    name,
    ...(JSON.parse(readFileSync(join(BAD, name, 'expect.json'), 'utf8')) as Expectation),
  }));
const adapterCases = cases.filter(({ kind }) => kind === 'adapter');
const modelCases = cases.filter(({ kind }) => kind === 'model');

/** Awaits the failure of `act` and asserts code and words. */
async function assertRefused(act: () => Promise<unknown>, { code, mentions, why }: Expectation): Promise<void> {
  await assert.rejects(act, (error: unknown) => {
    assert.ok(error instanceof LoramuxError, `${why}: expected a LoramuxError, got ${String(error)}`);
    assert.equal(error.code, code, `${why}: ${error.message}`);
    for (const word of mentions) {
      assert.ok(error.message.includes(word), `${why}: expected the message to name ${word}, got: ${error.message}`);
    }
    return true;
  });
}

test('the fixtures hold broken adapters and broken models', () => {
  assert.ok(adapterCases.length >= LEAST_CASES.adapter, `${adapterCases.length} adapter cases`);
  assert.ok(modelCases.length >= LEAST_CASES.model, `${modelCases.length} model cases`);
  assert.equal(adapterCases.length + modelCases.length, cases.length);
});

describe('broken adapters in a running engine', () => {
  let client: WorkerEngineClient;
  let nextId = 1;

  before(async () => {
    const model = await prepareLocal(join(SYNTHETIC, syntheticModel(BASE).path), 'f32');
    const roots = adapterCases.map(({ name }) => join(BAD, name));
    client = await WorkerEngineClient.start({
      start: {
        model,
        tokenCount: SYNTHETIC_TOKENS,
        adapterRoots: [join(SYNTHETIC, 'adapters', BASE), ...roots],
        threads: 1,
        adapterMemoryBytes: 2 ** 24,
        kvMemoryBytes: 2 ** 22,
        maxModelLen: null,
        maxBatchTokens: 64,
        maxPrefillRows: 64,
        maxSequences: 8,
        maxQueue: 8,
        prefixCache: true,
        speculation: true,
        launchAhead: true,
      },
      log: () => undefined,
    });
  });
  after(() => client.close());

  function generate(adapter: string, oracle: SyntheticCase): Promise<number[]> {
    const request: GenerateRequest = {
      id: nextId++,
      adapter,
      promptIds: Uint32Array.from(oracle.prompt_ids),
      maxNewTokens: 8,
      stopIds: [],
      sampling: GREEDY_SAMPLING,
      ...PLAIN_REQUEST,
    };
    return new Promise((resolve, reject) => {
      const tokens: number[] = [];
      client.submit(request, (event: SequenceEvent) => {
        if (event.kind === 'token') tokens.push(event.token);
        else if (event.kind === 'finish') resolve(tokens);
        else if (event.kind === 'error') reject(LoramuxError.fromRecord(event.error));
      });
    });
  }

  /** A good adapter and the base still answer what they always did. */
  async function assertServing(): Promise<void> {
    for (const adapter of [GOOD_ADAPTER, BASE_NAME]) {
      const oracle = casesOf(BASE).find((one) => one.adapter === adapter);
      assert.ok(oracle !== undefined);
      assert.deepEqual(await generate(adapter, oracle), oracle.expected_ids.slice(0, 8), `${adapter} answers wrongly`);
    }
    assert.equal(client.fatalError(), null);
  }

  test('the good ones are served before', assertServing);

  for (const one of adapterCases) {
    test(`${one.name}: ${one.why}`, async () => {
      assert.equal(one.base, BASE);
      const directory = join(BAD, one.name, one.input);
      const load = {
        op: 'load',
        name: one.name,
        source: { type: 'dir', location: directory },
        pin: false,
        wait: true,
        replace: false,
      } as const;
      await assertRefused(() => client.admin(load), one);
      // By now a known name that failed: a request for it fails alike, and generates nothing.
      const oracle = casesOf(BASE)[0] as SyntheticCase;
      await assertRefused(() => generate(one.name, oracle), one);
      const info = await client.admin({ op: 'get', name: one.name });
      assert.equal(info.state, 'failed');
      assert.equal(info.bytes, 0);
      assert.equal(info.failure?.code, one.code);
      await assertServing();
    });
  }

  test('none of them left memory behind', async () => {
    await client.admin({ op: 'unload', name: GOOD_ADAPTER, force: false });
    assert.deepEqual(
      client.state().tiers.map(({ bytes, pinned }) => ({ bytes, pinned })),
      client.state().tiers.map(() => ({ bytes: 0, pinned: 0 })),
    );
  });
});

describe('broken models', () => {
  for (const one of modelCases) {
    test(`${one.name}: ${one.why}`, async () => {
      await assertRefused(() => prepareLocal(join(BAD, one.name, one.input), 'f32'), one);
    });
  }

  test('a good model still prepares after all of them', async () => {
    const { manifest } = await prepareLocal(join(SYNTHETIC, syntheticModel(BASE).path), 'f32');
    assert.equal(manifest.modelId, BASE);
  });
});
