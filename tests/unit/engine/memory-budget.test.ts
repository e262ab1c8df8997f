import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { DecoderConfig } from '../../../src/core/model-manifest.js';
import { deviceBlockBytes, hostBlockBytes, sizeEngine } from '../../../src/engine/engine-sizing.js';
import { deviceBudget, hostBudget } from '../../../src/engine/memory-budget.js';

const GIB = 2 ** 30;
const MIB = 2 ** 20;
const NOTHING = { adapterMemoryBytes: null, kvMemoryBytes: null };

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

test('a GPU of 80 GB beside 8 billion weights of 16 bits: a fifth for adapters, the rest for KV', () => {
  const { adapterMemoryBytes, kvMemoryBytes } = deviceBudget(LOAD, NOTHING);
  const room = adapterMemoryBytes + kvMemoryBytes;
  assert.ok(Math.abs(adapterMemoryBytes / room - 0.2) < 1e-6);
  assert.ok(room > 54 * GIB && room < 57 * GIB, `${room / GIB} GiB`);
});

test('whatever is asked for, all that lies on a GPU fits its free memory, or the start is refused with figures', () => {
  const maybe = fc.option(fc.integer({ min: 1, max: 120 }).map((n) => n * GIB));
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 90 }), maybe, maybe, (free, adapterMemoryBytes, kvMemoryBytes) => {
      const load = { ...LOAD, freeBytes: free * GIB };
      const wanted = { adapterMemoryBytes, kvMemoryBytes };
      try {
        const found = deviceBudget(load, wanted);
        assert.ok(found.adapterMemoryBytes + found.kvMemoryBytes + load.weightsBytes < load.freeBytes);
        assert.ok(found.adapterMemoryBytes >= 64 * MIB && found.kvMemoryBytes >= 64 * MIB);
        assert.equal(found.adapterMemoryBytes, adapterMemoryBytes ?? found.adapterMemoryBytes);
        assert.equal(found.kvMemoryBytes, kvMemoryBytes ?? found.kvMemoryBytes);
      } catch (error) {
        assert.match(String(error), /MiB free.*--kv-memory/);
        const asked = (adapterMemoryBytes ?? 0) + (kvMemoryBytes ?? 0);
        assert.ok(asked + load.weightsBytes > free * GIB * 0.9 - 1.5 * GIB, 'refused with room to spare');
      }
    }),
  );
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
