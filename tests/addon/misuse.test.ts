import assert from 'node:assert/strict';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { runtimeLibraryPath } from '../../src/engine/addon.js';
import type {
  NativeAdapterFile,
  NativeEngine,
  NativeEngineOptions,
  NativeModulePlan,
} from '../../src/engine/binding.js';
import {
  GREEDY,
  openRaw,
  promptBatch,
  RAW_ADAPTER,
  type RawEngine,
  rawOptions,
  rawPlan,
} from '../helpers/raw-engine.js';

let raw: RawEngine;
before(async () => {
  raw = await openRaw();
});
after(() => raw.engine.close());

/** Asserts that `act` fails with an `Error` of this code; without one, with a TypeError or any coded `Error`. */
async function assertFails(act: () => unknown, code?: string, ...mentions: string[]): Promise<void> {
  await assert.rejects(
    async () => act(),
    (error: unknown) => {
      assert.ok(error instanceof Error, `expected an Error, got ${String(error)}`);
      const found = (error as { code?: unknown }).code;
      if (code === undefined) assert.ok(error instanceof TypeError || typeof found === 'string', error.message);
      else assert.equal(found, code, error.message);
      for (const word of mentions) assert.ok(error.message.includes(word), `no ${word} in: ${error.message}`);
      return true;
    },
  );
}

/** The binding without its types. */
type Loose = Record<string, (...args: unknown[]) => unknown>;
const loose = (value: unknown): Loose => value as Loose;

const NOT_OBJECTS: readonly unknown[] = [undefined, null, 5, 'text', Symbol('s'), true];

describe('arguments of the wrong type', () => {
  test('step takes a batch only', async () => {
    for (const value of [...NOT_OBJECTS, {}, []]) await assertFails(() => loose(raw.engine).step?.(value));
  });

  test('every field of a batch is needed and has its type', async () => {
    const batch = promptBatch([5, 6]);
    for (const field of Object.keys(batch)) {
      const missing = Object.fromEntries(Object.entries(batch).filter(([key]) => key !== field));
      await assertFails(() => loose(raw.engine).step?.(missing), undefined, field);
      for (const value of [null, 'text', {}, new Float64Array(2), Number.NaN].filter((value) => !fits(field, value))) {
        await assertFails(() => loose(raw.engine).step?.({ ...batch, [field]: value }));
      }
    }
  });

  test('every field of a sampling is needed and has its type', async () => {
    for (const field of Object.keys(GREEDY)) {
      const missing = Object.fromEntries(Object.entries(GREEDY).filter(([key]) => key !== field));
      await assertFails(() => loose(raw.engine).step?.({ ...promptBatch([5]), sampling: [missing] }), undefined, field);
      const wrong = { ...GREEDY, [field]: 'text' };
      await assertFails(() => loose(raw.engine).step?.({ ...promptBatch([5]), sampling: [wrong] }));
    }
  });

  test('a getter that throws in a batch reaches the caller', async () => {
    const batch = Object.defineProperty({ ...promptBatch([5]) }, 'tokens', {
      get() {
        throw new RangeError('mine');
      },
    });
    await assert.rejects(async () => raw.engine.step(batch), /mine/);
  });

  test('functions refuse what they cannot use', async () => {
    const { binding } = raw;
    for (const name of ['initRuntime', 'crc32File', 'openAdapterFile', 'firstMatches']) {
      for (const value of NOT_OBJECTS.filter((value) => typeof value !== 'string')) {
        await assertFails(() => loose(binding)[name]?.(value, value));
      }
    }
    for (const value of NOT_OBJECTS) await assertFails(() => loose(raw.engine).compileAdapter?.(value, '{}'));
    await assertFails(() => loose(raw.engine).compileAdapter?.({ sha256: '', bytes: 1, tensors: [] }, '{}'));
    for (const value of [undefined, null, 'text', {}])
      await assertFails(() => loose(raw.engine).releaseAdapter?.(value));
  });

  test('methods need their own object', async () => {
    const step: unknown = raw.engine.step;
    const call = (receiver: unknown): unknown =>
      Reflect.apply(step as NativeEngine['step'], receiver, [promptBatch([5])]);
    for (const receiver of [undefined, {}, Object.create(Object.getPrototypeOf(raw.engine) as object)]) {
      await assertFails(() => call(receiver));
    }
  });

  test('after all that the engine still steps', async () => {
    assert.equal((await raw.engine.step(promptBatch([5, 6]))).tokens.length, 1);
  });
});

/** Values that a field of a batch takes after all: a number where a number is wanted. */
function fits(field: string, value: unknown): boolean {
  // NaN becomes 0, which the batch's checks judge.
  return field === 'maxBlocks' && typeof value === 'number';
}

describe('opening an engine', () => {
  const open = (options: Partial<NativeEngineOptions>, manifest: unknown = raw.model.manifest): Promise<unknown> =>
    raw.binding.Engine.open(JSON.stringify(manifest), rawOptions(raw.model, options));

  for (const field of ['threads', 'maxModelLen', 'maxSequences', 'maxBatchTokens', 'kvBlocks'] as const) {
    for (const value of [0, -1, Number.NaN, 2 ** 32 - 1]) {
      test(`${field} = ${value} is refused by name`, () =>
        assertFails(() => open({ [field]: value }), 'ERR_NATIVE', field));
    }
  }
  test('no token to choose from is refused', () =>
    assertFails(() => open({ tokenCount: 0 }), 'ERR_NATIVE', 'tokenCount'));

  test('a cache of more memory than there is does not end the process', async () => {
    // Systems that overcommit hand out addresses without memory behind them; the others refuse.
    const opened = open({ kvBlocks: 2 ** 27 }).then((engine) => (engine as NativeEngine).close());
    await opened.catch((error: unknown) => assertFails(() => Promise.reject(error), undefined, '--kv-memory'));
  });

  test('a manifest that is none is refused', async () => {
    for (const manifest of [null, 5, [], {}, { ...raw.model.manifest, sites: 'none' }]) {
      await assertFails(() => open({}, manifest));
    }
    await assertFails(() => raw.binding.Engine.open('{', rawOptions(raw.model)));
  });

  test('a directory without the model is refused by its path', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'loramux-empty-'));
    await assertFails(() => open({ directory }), 'ERR_MODEL_INVALID', directory);
    writeFileSync(join(directory, raw.model.manifest.weights.file), Buffer.alloc(64));
    await assertFails(() => open({ directory }), 'ERR_MODEL_INVALID', directory);
    writeFileSync(join(directory, raw.model.manifest.graph.file), 'no graph');
    await assertFails(() => open({ directory }), 'ERR_MODEL_INVALID', directory);
  });
});

describe('adapters', () => {
  const file = (): ReturnType<RawEngine['binding']['openAdapterFile']> =>
    raw.binding.openAdapterFile(RAW_ADAPTER, 2 ** 20);

  test('a file that is missing, a directory or too long is refused by its path', async () => {
    const { openAdapterFile } = raw.binding;
    await assertFails(() => openAdapterFile('no/such/file', 2 ** 20), undefined, 'no/such/file');
    await assertFails(() => openAdapterFile(tmpdir(), 2 ** 20), undefined, tmpdir());
    for (const limit of [100, 0, -1, Number.NaN]) {
      await assertFails(() => openAdapterFile(RAW_ADAPTER, limit), 'ERR_ADAPTER_TOO_LARGE', RAW_ADAPTER);
    }
  });

  const compile = (opened: NativeAdapterFile, modules: NativeModulePlan[]): Promise<unknown> =>
    raw.engine.compileAdapter(opened, JSON.stringify({ modules }));

  const BAD_FILE = 'ERR_ADAPTER_INVALID';
  /** The plan is made by this project: what no file can cause is an internal error. */
  const BAD_PLAN = 'ERR_NATIVE';
  const Q_PROJ_A = 'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight';
  const REFUSED: readonly (readonly [
    what: string,
    change: Partial<NativeModulePlan>,
    code: string,
    ...mentions: string[],
  ])[] = [
    ['a site that is not there', { site: 9_999 }, BAD_PLAN, '9999'],
    ['a module that is not there', { module: 99 }, BAD_PLAN, '99'],
    ['a tensor that is not in the file', { a: 'nothing' }, BAD_FILE, 'nothing'],
    ['another module’s shape', { site: 3 }, BAD_FILE],
    ['a rank that the tensors do not have', { rank: 7 }, BAD_FILE, '7'],
    ['rank 0', { rank: 0 }, BAD_FILE],
    ['a negative rank', { rank: -1 }, BAD_PLAN, '-1'],
    ['a scaling that is no number', { scaling: Number.NaN }, BAD_PLAN, 'null'],
    ['a magnitude that is not in the file', { magnitude: 'nothing' }, BAD_FILE, 'nothing'],
    ['a magnitude of another shape', { magnitude: Q_PROJ_A }, BAD_FILE, Q_PROJ_A],
  ];
  for (const [what, change, code, ...mentions] of REFUSED) {
    test(`${what} is refused and leaves no memory behind`, async () => {
      const opened = await file();
      const [first, ...rest] = rawPlan(raw.model, opened);
      assert.ok(first !== undefined);
      const before = raw.engine.adapterMemory();
      await assertFails(() => compile(opened, [{ ...first, ...change }, ...rest]), code, ...mentions);
      assert.deepEqual(raw.engine.adapterMemory(), before);
    });
  }

  test('one module twice is refused', async () => {
    const opened = await file();
    const plan = rawPlan(raw.model, opened);
    await assertFails(() => compile(opened, [...plan, ...plan]), BAD_PLAN, 'twice');
  });

  test('what is no plan is refused', async () => {
    const opened = await file();
    for (const plan of ['', '{', '[]x', '{"modules":{}}', '{"sites":[]}', '{"modules":[{"site":0}]}']) {
      await assertFails(() => raw.engine.compileAdapter(opened, plan), BAD_PLAN, 'adapter plan');
    }
  });

  test('a closed file is of no use, but a job that began with it ends well', async () => {
    const opened = await file();
    const compiled = compile(opened, rawPlan(raw.model, opened));
    opened.close();
    opened.close();
    await compiled.then((adapter) => raw.engine.releaseAdapter((adapter as { handle: number }).handle));
    for (const use of [() => opened.sha256, () => opened.tensors, () => raw.engine.compileAdapter(opened, '{}')]) {
      await assertFails(use, BAD_PLAN, 'closed');
    }
  });

  test('releasing what is not resident does nothing', () => {
    const before = raw.engine.adapterMemory();
    for (const handle of [4_000, -1, Number.NaN, 2 ** 32 + 7, 1.5]) raw.engine.releaseAdapter(handle);
    assert.deepEqual(raw.engine.adapterMemory(), before);
  });
});

describe('ONNX Runtime', () => {
  test('opening it again from the same path is fine, from another is refused', async () => {
    raw.binding.initRuntime(runtimeLibraryPath());
    await assertFails(
      () => raw.binding.initRuntime('other/libonnxruntime.so.1'),
      'ERR_NATIVE_LOAD',
      'other/libonnxruntime',
    );
    raw.binding.initRuntime(runtimeLibraryPath());
  });
});

describe('small helpers', () => {
  test('a checksum of a file that is not there names it', () =>
    assertFails(() => raw.binding.crc32File('no/such/file'), 'ERR_MODEL_INVALID', 'no/such/file'));

  test('patterns of another engine are refused by name', async () => {
    for (const pattern of ['(?=a)', '(a)\\1', '(', '*', 'a{1000000}']) {
      await assertFails(() => raw.binding.firstMatches([pattern], ['a']), 'ERR_ADAPTER_INVALID', pattern);
    }
    assert.deepEqual([...(await raw.binding.firstMatches(['b', 'a+', 'a.*'], ['aa', 'ab', 'c', '']))], [1, 2, -1, -1]);
    assert.deepEqual([...(await raw.binding.firstMatches([], ['a']))], [-1]);
    assert.deepEqual([...(await raw.binding.firstMatches(['a'], []))], []);
  });
});
