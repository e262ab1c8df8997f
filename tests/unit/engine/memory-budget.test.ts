import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { DecoderConfig } from '../../../src/core/model-manifest.js';
import { deviceBlockBytes, hostBlockBytes, sizeEngine, sizePages } from '../../../src/engine/engine-sizing.js';
import { deviceBudget, hostBudget } from '../../../src/engine/memory-budget.js';

const GIB = 2 ** 30;
const MIB = 2 ** 20;
const NOTHING = { adapterMemoryBytes: null, kvMemoryBytes: null, gpuMemory: null };

/** Llama-3.1-8B's shape. */
const CONFIG = {
  hiddenSize: 4096,
  intermediateSize: 14336,
  layers: 32,
  heads: 32,
  kvHeads: 8,
  headDim: 128,
  vocabSize: 128256,
  maxPositions: 131072,
} as DecoderConfig;
const LOAD = { freeBytes: 79 * GIB, weightsBytes: 16 * GIB, config: CONFIG, elementBytes: 2, maxBatchTokens: 512 };

test('a CPU gives shares of its memory, at least 64 MiB, or what was asked for', () => {
  assert.deepEqual(hostBudget(16 * GIB, NOTHING), { adapterMemoryBytes: GIB, kvMemoryBytes: 256 * MIB });
  assert.deepEqual(hostBudget(GIB / 2, NOTHING), { adapterMemoryBytes: 64 * MIB, kvMemoryBytes: 64 * MIB });
  assert.equal(hostBudget(GIB, { ...NOTHING, kvMemoryBytes: 5 }).kvMemoryBytes, 5);
});

test('a GPU of 80 GB beside 8 billion weights of 16 bits: the rest for KV cache and adapters together', () => {
  const { adapterMemoryBytes, kvMemoryBytes } = deviceBudget(LOAD, NOTHING);
  assert.equal(adapterMemoryBytes, kvMemoryBytes);
  assert.ok(kvMemoryBytes > 54 * GIB && kvMemoryBytes < 57 * GIB, `${kvMemoryBytes / GIB} GiB`);
  const half = deviceBudget(LOAD, { ...NOTHING, gpuMemory: 0.5 }).kvMemoryBytes;
  assert.ok(Math.abs(kvMemoryBytes - half - 0.42 * 79 * GIB) < 10);
  assert.equal(deviceBudget(LOAD, { ...NOTHING, gpuMemory: 79 * GIB * 0.5 }).kvMemoryBytes, half);
});

test('budgets of the other device are refused, and say what to use', () => {
  for (const name of ['kvMemoryBytes', 'adapterMemoryBytes'] as const) {
    const refused = { code: 'ERR_CONFIG', message: /^--(kv|adapter)-memory: .*--gpu-memory/ };
    assert.throws(() => deviceBudget(LOAD, { ...NOTHING, [name]: GIB }), refused);
  }
  const refused = { code: 'ERR_CONFIG', message: /^--gpu-memory: the CPU computes: set --kv-memory/ };
  assert.throws(() => hostBudget(GIB, { ...NOTHING, gpuMemory: 0.5 }), refused);
});

test('whatever is asked for, all that lies on a GPU fits its free memory, or the start is refused with figures', () => {
  const share = fc.integer({ min: 1, max: 100 }).map((percent) => percent / 100);
  const asked = fc.option(
    fc.oneof(
      share,
      fc.integer({ min: 1, max: 120 }).map((n) => n * GIB),
    ),
  );
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 90 }), asked, (free, gpuMemory) => {
      const load = { ...LOAD, freeBytes: free * GIB };
      const most = gpuMemory !== null && gpuMemory > 1 ? gpuMemory : load.freeBytes * (gpuMemory ?? 0.92);
      try {
        const { kvMemoryBytes } = deviceBudget(load, { ...NOTHING, gpuMemory });
        assert.ok(kvMemoryBytes + load.weightsBytes < most && most <= load.freeBytes);
        assert.ok(kvMemoryBytes >= 128 * MIB);
      } catch (error) {
        assert.match(String(error), /MiB free.*--gpu-memory/);
        assert.ok(most > load.freeBytes || most < load.weightsBytes + 2 * GIB, 'refused with room to spare');
      }
    }),
  );
});

test('pages of a GPU: the longest sequence never needs the last of them, and a fifth stays where none was asked for', () => {
  const page = deviceBlockBytes(CONFIG, 2);
  assert.deepEqual(sizePages(CONFIG, page, 100 * page + 5, null), { kvBlocks: 100, maxModelLen: 80 * 16 });
  assert.deepEqual(sizePages(CONFIG, page, 20480 * page, null), { kvBlocks: 20480, maxModelLen: 131072 });
  assert.deepEqual(sizePages(CONFIG, page, 100 * page, 99 * 16), { kvBlocks: 100, maxModelLen: 99 * 16 });
  const refused = { code: 'ERR_CONFIG', message: /--gpu-memory/ };
  assert.throws(() => sizePages(CONFIG, page, 100 * page, 99 * 16 + 1), refused);
  assert.throws(() => sizePages(CONFIG, page, page, null), refused);
});

test('KV blocks: float32 in vectors on a CPU, the activations’ type on a GPU', () => {
  assert.equal(deviceBlockBytes(CONFIG, 2), 32 * 8 * 16 * 2 * 128 * 2);
  assert.equal(hostBlockBytes({ ...CONFIG, headDim: 100 }, 'f32'), 32 * 8 * 16 * (100 + 112) * 4);
  for (const half of ['f16', 'bf16'] as const) {
    const blockBytes = hostBlockBytes(CONFIG, half);
    assert.equal(blockBytes * 2, hostBlockBytes(CONFIG, 'f32'));
    const wide = sizeEngine(CONFIG, blockBytes * 2, GIB, null);
    assert.equal(sizeEngine(CONFIG, blockBytes, GIB, null).kvBlocks, 2 * wide.kvBlocks);
  }
  const { kvBlocks, maxModelLen } = sizeEngine(CONFIG, deviceBlockBytes(CONFIG, 2), 40 * GIB, null);
  assert.deepEqual([kvBlocks, maxModelLen], [20480, 131072]);
});
