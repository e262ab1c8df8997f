import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { LoramuxError } from '../../../src/core/errors.js';
import { addonPath } from '../../../src/engine/addon.js';
import type { NativeCudaDevice } from '../../../src/engine/binding.js';
import { chooseDevice } from '../../../src/engine/choose-device.js';
import { type CudaProbe, probeCuda, RUNTIME_FILES } from '../../../src/engine/cuda-probe.js';

const GPU: NativeCudaDevice = {
  name: 'NVIDIA H100 80GB HBM3',
  totalBytes: 80 * 2 ** 30,
  freeBytes: 79 * 2 ** 30,
  capability: 90,
  driver: 13000,
  runtime: 13000,
  emulated: false,
};
const DRIVER = '/proc/driver/nvidia/version';
const ALL = [DRIVER, addonPath('cuda'), ...RUNTIME_FILES.map((file) => `/runtime/${file}`)];

/** What a machine with these files, and an addon that lists these GPUs, comes to. */
function state(files: readonly string[], devices: CudaProbe['devices'] = () => [GPU]) {
  return () => probeCuda('/runtime', { exists: (path) => files.includes(path), devices });
}

function refused(...parts: readonly string[]) {
  return (error: unknown): boolean => {
    assert.ok(error instanceof LoramuxError && error.code === 'ERR_CONFIG');
    for (const part of parts) assert.ok(error.message.includes(part), `${part} in ${error.message}`);
    return true;
  };
}

describe('with all that a GPU needs', () => {
  test('auto takes the first GPU, cuda:N that one, cpu none', () => {
    const two = state(ALL, () => [GPU, { ...GPU, name: 'second' }]);
    assert.equal(chooseDevice('auto', null, two).cuda?.facts.name, GPU.name);
    assert.deepEqual(chooseDevice('cuda:1', null, two), {
      cuda: { index: 1, facts: { ...GPU, name: 'second' } },
      warning: null,
    });
    assert.deepEqual(
      chooseDevice('cpu', 'refuse', () => assert.fail('nothing is to be looked for')),
      { cuda: null, warning: null },
    );
    assert.throws(() => chooseDevice('cuda:2', null, two), refused('one of the 2 GPUs', 'cuda:0 to cuda:1'));
  });

  test('a GPU that is too old is not taken; the stand-in of tests is', () => {
    const old = state(ALL, () => [{ ...GPU, name: 'Tesla V100', capability: 70 }]);
    assert.match(chooseDevice('auto', null, old).warning ?? '', /THE CPU COMPUTES.*Tesla V100 is sm_70/);
    assert.throws(() => chooseDevice('cuda:0', null, old), refused('sm_70', 'sm_80'));
    const emulated = state(ALL, () => [{ ...GPU, capability: 0, emulated: true }]);
    const standIn = chooseDevice('cuda:0', null, emulated);
    assert.deepEqual([standIn.cuda?.index, /EMULATES/.test(standIn.warning ?? '')], [0, true]);
  });
});

describe('where something is missing', () => {
  const noDevice = (): never => {
    throw Object.assign(new Error('CUDA driver version is insufficient'), { code: 'ERR_DEVICE' });
  };
  const cases = [
    ['the addon', state([DRIVER]), 'without CUDA', 'npm run build:cuda'],
    ['the runtime', state(ALL.slice(0, -1)), 'libonnxruntime_providers_cuda.so in /runtime', 'npm run cuda:runtime'],
    ['CUDA in the addon', state(ALL, () => null), 'was built without CUDA', 'npm run build:cuda'],
    ['a driver that is new enough', state(ALL, noDevice), 'version is insufficient', '580 or newer'],
    ['a GPU', state(ALL, () => []), 'CUDA lists no GPU', 'nvidia-smi'],
  ] as const;
  for (const [what, probe, found, advice] of cases) {
    test(`without ${what}, cuda refuses to start and auto falls back with a warning, each with what to do`, () => {
      assert.throws(
        () => chooseDevice('cuda:0', null, probe),
        refused('--device cuda:0', found, advice, '--device cpu'),
      );
      assert.throws(() => chooseDevice('auto', 'refuse', probe), refused('--device auto', found, advice));
      for (const choice of [chooseDevice('auto', null, probe), chooseDevice('cuda:0', 'allow', probe)]) {
        assert.equal(choice.cuda, null);
        assert.ok(choice.warning?.includes(found) && choice.warning.includes(advice), choice.warning ?? '');
      }
    });
  }

  test('auto on a machine without an NVIDIA driver is silent: a CPU is all there is', () => {
    assert.deepEqual(chooseDevice('auto', null, state([])), { cuda: null, warning: null });
    assert.match(chooseDevice('cuda:0', 'allow', state([])).warning ?? '', /THE CPU COMPUTES/);
  });
});
