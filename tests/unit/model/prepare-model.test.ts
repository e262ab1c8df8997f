import assert from 'node:assert/strict';
import { readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import type { PreparedModel, WeightRef } from '../../../src/core/model-manifest.js';
import type { DeviceKind } from '../../../src/model/choose-precision.js';
import { type PrepareModelOptions, prepareModel } from '../../../src/model/prepare-model.js';
import { SYNTHETIC } from '../../helpers/synthetic.js';
import { startHub } from './helpers/hub-server.js';
import { readModel } from './helpers/onnx-reader.js';
import { noise } from './helpers/random-weights.js';
import { checksumFile, loramuxError, temporaryDirectory } from './helpers/temporary.js';
import {
  type StoredTensor,
  TINY_CONFIG,
  TINY_TOKENIZER,
  tinyWeights,
  writeDirectory,
  writeSafetensors,
} from './helpers/tiny-directory.js';
import { tinyGguf } from './helpers/tiny-gguf.js';

type Changes = Partial<PrepareModelOptions>;

async function setUp(context: TestContext) {
  const root = await temporaryDirectory(context);
  const phases: string[] = [];
  const prepare = (model: string, changes: Changes = {}): Promise<PreparedModel> =>
    prepareModel({
      model,
      precision: 'f32',
      cacheDir: join(root, 'cache'),
      checksumFile,
      onProgress: ({ phase }) => phases.push(phase),
      memoryBytes: 2 ** 30,
      ...changes,
    });
  const gguf = join(root, 'tiny.gguf');
  await writeFile(gguf, tinyGguf());
  const directory = await writeDirectory(join(root, 'tiny-model'));
  return { root, phases, prepare, gguf, directory };
}

/** The tiny model in a type of 16 bits: the upper halves of random float32 are finite in either. */
function tinyShorts(dtype: 'F16' | 'BF16'): Record<string, StoredTensor> {
  return Object.fromEntries(
    Object.entries(tinyWeights()).map(([name, { shape, bytes }]) => {
      const words = new Uint16Array(bytes.slice().buffer).filter((_, index) => index % 2 === 1);
      return [name, { dtype, shape, bytes: new Uint8Array(words.buffer) }];
    }),
  );
}

async function weightsOf({ directory, manifest }: PreparedModel, site: number, module: number): Promise<Float32Array> {
  const weight = manifest.sites[site]?.modules[module]?.weight;
  assert.ok(weight?.format === 'f32-panels');
  const { rows, cols, firstRow, dataOffset } = weight;
  const bytes = await readFile(join(directory, 'weights.bin'));
  return Float32Array.from({ length: rows * cols }, (_, at) => {
    const [row, column] = [firstRow + Math.floor(at / cols), at % cols];
    const lane = row % 16;
    return bytes.readFloatLE(dataOffset + 4 * (((row - lane) / 16) * cols * 16 + column * 16 + lane));
  });
}

describe('preparing a model', () => {
  test('a directory becomes graph, weights, tokenizer and manifest', async (t) => {
    const { prepare, directory } = await setUp(t);
    const prepared = await prepare(directory);
    assert.deepEqual((await readdir(prepared.directory)).sort(), [
      'manifest.json',
      'manifest.json.crc32',
      'model.onnx',
      'tokenizer.json',
      'weights.bin',
    ]);
    assert.equal(prepared.manifest.modelId, 'tiny-model');
    assert.deepEqual(prepared.manifest.eosTokenIds, [1]);
    assert.deepEqual(await weightsOf(prepared, 0, 1), noise(16 * 32, 3));
    assert.deepEqual(await weightsOf(prepared, 2, 1), noise(64 * 32, 8));
    assert.deepEqual(await weightsOf(prepared, 3, 0), noise(32 * 64, 9));
    assert.deepEqual(JSON.parse(await readFile(join(prepared.directory, 'tokenizer.json'), 'utf8')), TINY_TOKENIZER);
  });

  test('a GGUF file may be renamed: the entry is found by content and the new name reported', async (t) => {
    const { prepare, gguf, root, phases } = await setUp(t);
    const first = await prepare(gguf);
    assert.equal(first.manifest.modelId, 'tiny.gguf');
    await rename(gguf, join(root, 'other.gguf'));
    phases.length = 0;
    const second = await prepare(join(root, 'other.gguf'));
    assert.equal(second.directory, first.directory);
    assert.equal(second.manifest.modelId, 'other.gguf');
    assert.ok(!phases.includes('convert'));
  });

  test('precisions and changed sources get entries of their own', async (t) => {
    const { prepare, directory } = await setUp(t);
    const entries = [];
    for (const precision of ['f32', 'w8', 'w4'] as const) entries.push(await prepare(directory, { precision }));
    await writeDirectory(directory, { 'config.json': { ...TINY_CONFIG, rms_norm_eps: 1e-6 } });
    entries.push(await prepare(directory));
    // A GPU's float32 matrices lie row by row.
    entries.push(await prepare(directory, { device: 'cuda' }));
    assert.equal(new Set(entries.map((entry) => entry.directory)).size, 5);
    const formats = entries.map(({ manifest }) => manifest.sites[0]?.modules[0]?.weight.format);
    assert.deepEqual(formats, ['f32-panels', 'w8', 'w4', 'f32-panels', 'f32']);
    assert.notEqual(entries[2]?.manifest.sites[0]?.modules[0]?.weight.minsOffset, null);
  });

  test('auto takes 8 bits for float weights; without vector kernels float32, where it fits half the memory', async (t) => {
    const { prepare, directory } = await setUp(t);
    const choose = (instructionSet: string, memoryBytes = 2 ** 30) =>
      prepare(directory, { precision: 'auto', memoryBytes, instructionSet });
    const vector = await choose('avx2');
    assert.equal(vector.manifest.precision, 'w8');
    assert.match(vector.precisionReason, /^fastest with avx2 kernels, within 1 %/);
    const portable = await choose('portable');
    assert.equal(portable.manifest.precision, 'f32');
    const tight = await choose('portable', 2 * portable.manifest.weights.bytes - 2);
    assert.equal(tight.manifest.precision, 'w8');
    assert.match(tight.precisionReason, /^float32 does not fit half the memory/);
    assert.equal((await prepare(directory, { precision: 'w4' })).precisionReason, 'as configured');
  });

  test('auto takes 4 bits for layers that the file holds in 4-bit blocks, and for no others', async (t) => {
    const { prepare } = await setUp(t);
    const choose = async (file: string) =>
      (await prepare(join(SYNTHETIC, 'gguf', file), { precision: 'auto', instructionSet: 'avx2' })).manifest.precision;
    assert.equal(await choose('llama-gqa-tied.Q4_1.gguf'), 'w4');
    assert.equal(await choose('llama-gqa-tied.Q4_0.gguf'), 'w4');
    assert.equal(await choose('llama-gqa-tied.Q8_0.gguf'), 'w8');
    assert.equal(await choose('llama-gqa-tied.F16.gguf'), 'w8');
  });

  test('on a GPU auto takes the type of the file, and float16 for files that are not in bfloat16', async (t) => {
    const { root, prepare, directory, gguf } = await setUp(t);
    const choose = async (model: string) => {
      const { manifest, precisionReason } = await prepare(model, { precision: 'auto', device: 'cuda' });
      return [manifest.precision, precisionReason];
    };
    assert.deepEqual(await choose(directory), [
      'f16',
      'what a GPU computes in fastest, and the file is not in bfloat16',
    ]);
    assert.equal((await choose(gguf))[0], 'f16');
    const brain = writeSafetensors(tinyShorts('BF16'));
    const stored = await writeDirectory(join(root, 'brain'), { 'model.safetensors': brain });
    assert.equal((await choose(stored))[0], 'bf16');
  });

  test('a precision that the device does not compute in is refused by name', async (t) => {
    const { prepare, directory } = await setUp(t);
    for (const precision of ['f16', 'bf16'] as const)
      await assert.rejects(prepare(directory, { precision }), loramuxError('ERR_CONFIG', precision, '--device cpu'));
  });

  test('a GPU holds the quants of 4-bit blocks as the file does, row by row; others are rounded around zero', async (t) => {
    const { prepare } = await setUp(t);
    const open = (file: string, device: DeviceKind) =>
      prepare(join(SYNTHETIC, 'gguf', `llama-gqa-tied.${file}.gguf`), { precision: 'w4', device });
    const [gpu, cpu] = [await open('Q4_0', 'cuda'), await open('Q4_0', 'cpu')];
    const read = ({ directory }: PreparedModel) => readFile(join(directory, 'weights.bin'));
    const [rows, panels] = [await read(gpu), await read(cpu)];
    let compared = 0;
    for (const [s, { modules }] of gpu.manifest.sites.entries()) {
      for (const [m, { weight }] of modules.entries()) {
        const other = cpu.manifest.sites[s]?.modules[m]?.weight as WeightRef;
        assert.deepEqual([weight.format, other.format], ['w4-rows', 'w4']);
        for (let at = 0; at < weight.rows * weight.cols; at += 1) {
          const [row, column] = [other.firstRow + Math.floor(at / weight.cols), at % weight.cols];
          const block = Math.floor(row / 16) * (weight.cols / 32) + Math.floor(column / 32);
          const quad = Math.floor((column % 32) / 4);
          const pair = panels[other.dataOffset + (block * 4 + (quad >> 1)) * 64 + (row % 16) * 4 + (column % 4)] ?? 0;
          const byte = rows[weight.dataOffset + (at >> 1)] ?? 0;
          assert.equal((byte >> (4 * (at % 2))) & 15, (pair >> (4 * (quad % 2))) & 15);
          const scale = rows.readUInt16LE(weight.scalesOffset === null ? 0 : weight.scalesOffset + 2 * (at >> 5));
          assert.equal(scale, panels.readUInt16LE((other.scalesOffset ?? 0) + 2 * (block * 16 + (row % 16))));
          compared += 1;
        }
      }
    }
    assert.ok(compared > 10_000);
    const formats = async (file: string) =>
      (await open(file, 'cuda')).manifest.sites.map(({ modules }) => modules[0]?.weight.format);
    // Minima of Q4_1 have no place in blocks around zero: fitted once more, and the head keeps 8 bits.
    assert.deepEqual([(await formats('Q4_1')).at(0), (await formats('Q4_1')).at(-1)], ['w4-rows', 'w8-rows']);
  });

  for (const [dtype, precision] of [
    ['F16', 'f16'],
    ['BF16', 'bf16'],
  ] as const) {
    test(`${precision}: every weight is the bytes of the ${dtype} file`, async (t) => {
      const { root, prepare } = await setUp(t);
      const tensors = tinyShorts(dtype);
      const files = { 'model.safetensors': writeSafetensors(tensors) };
      const model = await prepare(await writeDirectory(join(root, dtype), files), { precision, device: 'cuda' });
      const bytes = await readFile(join(model.directory, 'weights.bin'));
      const { sites, embedding } = model.manifest;
      const modules = [...sites.flatMap((site) => site.modules), embedding];
      assert.equal(modules.length, 9);
      for (const { name, weight } of modules) {
        assert.equal(weight.format, precision);
        const wanted = tensors[`${name}.weight`]?.bytes as Uint8Array;
        const found = bytes.subarray(weight.dataOffset, weight.dataOffset + wanted.length);
        assert.deepEqual(new Uint8Array(found), new Uint8Array(wanted), name);
      }
      const graph = readModel(await readFile(join(model.directory, 'model.onnx')));
      const norm = graph.initializers.find(({ name }) => name === 'model.norm.weight');
      assert.equal(norm?.type, dtype === 'F16' ? 10 : 16);
      const at = Number(norm.external.offset);
      assert.deepEqual(
        new Uint8Array(bytes.subarray(at, at + 64)),
        new Uint8Array(tensors['model.norm.weight']?.bytes as Uint8Array),
      );
    });
  }

  test('concurrent preparations of one model share an entry', async (t) => {
    const { prepare, gguf, root } = await setUp(t);
    const prepared = await Promise.all(Array.from({ length: 4 }, () => prepare(gguf)));
    assert.equal(new Set(prepared.map(({ directory }) => directory)).size, 1);
    assert.equal((await readdir(join(root, 'cache', 'models'))).length, 1);
  });

  test('damage is reported at the next start, not repaired', async (t) => {
    const { prepare, gguf } = await setUp(t);
    const { directory } = await prepare(gguf);
    const weights = await readFile(join(directory, 'weights.bin'));
    weights[5000] = (weights[5000] ?? 0) ^ 1;
    await writeFile(join(directory, 'weights.bin'), weights);
    await assert.rejects(prepare(gguf), loramuxError('ERR_CACHE_CORRUPT', 'weights.bin', directory, 'delete'));
  });

  test('a damaged source leaves no entry', async (t) => {
    const { prepare, root } = await setUp(t);
    const cut = join(root, 'cut.gguf');
    await writeFile(cut, tinyGguf().subarray(0, -64));
    await assert.rejects(prepare(cut), loramuxError('ERR_MODEL_INVALID', 'cut.gguf', 'cut short'));
    const entries = await readdir(join(root, 'cache', 'models')).catch(() => []);
    assert.deepEqual(entries, []);
  });

  test('a hub id is downloaded, converted, and needs no network again', async (t) => {
    const { prepare } = await setUp(t);
    const json = (value: unknown) => Buffer.from(JSON.stringify(value));
    const files = {
      'config.json': json(TINY_CONFIG),
      'tokenizer.json': json(TINY_TOKENIZER),
      'model.safetensors': writeSafetensors(tinyWeights()),
    };
    const hub = await startHub(t, { repo: 'org/tiny', commit: 'a'.repeat(40), files });
    const first = await prepare('org/tiny', { hub: { endpoint: hub.endpoint } });
    assert.equal(first.manifest.modelId, 'org/tiny');
    const asked = hub.requests.length;
    assert.equal((await prepare('org/tiny@main', { hub: { endpoint: hub.endpoint } })).directory, first.directory);
    assert.equal(hub.requests.length, asked);
  });

  test('a cache directory that cannot be made is named with what to do', async (t) => {
    const { prepare, gguf } = await setUp(t);
    await assert.rejects(
      prepare(gguf, { cacheDir: join(gguf, 'cache') }),
      loramuxError('ERR_CONFIG', '--cache-dir', 'ENOTDIR'),
    );
  });

  test('what is no model is named with what would be', async (t) => {
    const { prepare, root } = await setUp(t);
    await assert.rejects(prepare('./nowhere'), loramuxError('ERR_MODEL_NOT_FOUND', './nowhere', '.gguf', 'hub id'));
    await writeFile(join(root, 'x.gguf'), 'no model at all');
    await assert.rejects(prepare(join(root, 'x.gguf')), loramuxError('ERR_MODEL_INVALID', 'x.gguf', 'GGUF'));
  });
});
