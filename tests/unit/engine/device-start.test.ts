import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ModelManifest } from '../../../src/core/model-manifest.js';
import { startDevice } from '../../../src/device-start.js';
import type { CudaState } from '../../../src/engine/cuda-probe.js';

const OPEN = {
  precision: null,
  maxPrefillRows: null,
  launchAhead: null,
  adapterMemoryBytes: null,
  kvMemoryBytes: null,
  gpuMemory: null,
} as const;
const ASKED = {
  device: 'auto',
  deviceFallback: null,
  cudaRuntime: '/runtime',
  cudaGraphs: true,
  adapterDtype: 'file',
  kvDtype: null,
  adapterHostMemoryBytes: null,
} as const;
const NO_GPU: CudaState = {
  obstacles: [{ part: 'device', found: 'no GPU', advice: 'buy one' }],
  devices: [],
  hasDriver: true,
};

test('on a CPU, open settings become those of a CPU, and a GPU that cannot be used is warned of', () => {
  const warnings: string[] = [];
  const device = startDevice(
    ASKED,
    (text) => warnings.push(text),
    () => NO_GPU,
  );
  assert.deepEqual(warnings, ['THE CPU COMPUTES instead of a GPU. no GPU: buy one']);
  assert.deepEqual([device.kind, device.title, device.start], ['cpu', 'the CPU', {}]);
  assert.deepEqual([device.precision(OPEN), device.prefillRows(OPEN)], ['f32', 64]);
  assert.deepEqual([device.precision({ precision: 'w8' }), device.prefillRows({ maxPrefillRows: 3 })], ['w8', 3]);
  assert.deepEqual([device.launchAhead(OPEN), device.launchAhead({ launchAhead: true })], [false, true]);
  const memory = device.memory({ ...OPEN, maxBatchTokens: 512 }, {} as ModelManifest, 2 ** 34);
  assert.deepEqual(memory, { adapterMemoryBytes: 2 ** 30, kvMemoryBytes: 2 ** 28 });
});

test('int4 adapters and a type of keys and values are refused on a GPU', () => {
  const gpu = { name: 'g', totalBytes: 1, freeBytes: 1, capability: 90, driver: 1, runtime: 1, emulated: false };
  const state: CudaState = { obstacles: [], devices: [gpu], hasDriver: true };
  assert.throws(
    () => startDevice({ ...ASKED, adapterDtype: 'int4' }, assert.fail, () => state),
    /--adapter-dtype int4: expected file or int8 on a GPU/,
  );
  for (const kvDtype of ['f32', 'f16'] as const) {
    assert.throws(
      () => startDevice({ ...ASKED, kvDtype }, assert.fail, () => state),
      new RegExp(`--kv-dtype ${kvDtype}: expected none on a GPU`),
    );
  }
});

test('adapters are kept on the host for a GPU only', () => {
  const gpu = { name: 'g', totalBytes: 1, freeBytes: 1, capability: 90, driver: 1, runtime: 1, emulated: false };
  const withGpu = (): CudaState => ({ obstacles: [], devices: [gpu], hasDriver: true });
  const device = startDevice({ ...ASKED, adapterHostMemoryBytes: 5 }, assert.fail, withGpu);
  assert.equal(device.hostMemory({ adapterHostMemoryBytes: 5 }, 2 ** 34), 5);
  assert.equal(device.hostMemory({ adapterHostMemoryBytes: 0 }, 2 ** 34), 0);
  assert.equal(device.hostMemory({ adapterHostMemoryBytes: null }, 2 ** 34), 2 ** 31);
  const cpu = { ...ASKED, device: 'cpu' } as const;
  assert.throws(
    () => startDevice({ ...cpu, adapterHostMemoryBytes: 5 }, assert.fail),
    /--adapter-host-memory: expected a GPU/,
  );
  for (const none of [null, 0])
    assert.equal(
      startDevice({ ...cpu, adapterHostMemoryBytes: none }, assert.fail).hostMemory(
        { adapterHostMemoryBytes: null },
        2 ** 34,
      ),
      0,
    );
});

test('on a GPU, open settings become those of a GPU', () => {
  const gpu = { name: 'g', totalBytes: 1, freeBytes: 2 ** 36, capability: 90, driver: 1, runtime: 1, emulated: false };
  const device = startDevice(ASKED, assert.fail, () => ({ obstacles: [], devices: [gpu], hasDriver: true }));
  assert.deepEqual(device.start, { cuda: { device: 0, name: 'g', capability: 90, graphs: true } });
  assert.equal(device.title, 'cuda:0, g, 65536 MiB free');
  assert.deepEqual([device.kind, device.precision(OPEN), device.prefillRows(OPEN)], ['cuda', 'auto', 1024]);
  assert.equal(device.precision({ precision: 'f32' }), 'f32');
  assert.deepEqual([device.launchAhead(OPEN), device.launchAhead({ launchAhead: false })], [true, false]);
});
