import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type CudaFacts, cudaFindings } from '../../../src/cli/doctor/cuda-checks.js';
import { type Finding, findingLines } from '../../../src/cli/doctor/finding.js';
import type { Host } from '../../../src/cli/doctor/host.js';
import { type ServerFacts, serverFindings } from '../../../src/cli/doctor/server-checks.js';
import { LoramuxError } from '../../../src/core/errors.js';

/** A machine without anything, but for what a test gives it. */
function host(given: Partial<Host> = {}): Host {
  return {
    env: {},
    platform: 'linux',
    arch: 'x64',
    nodeVersion: '20.19.0',
    exists: (path) => path === '/',
    read: () => null,
    run: () => null,
    freeBytes: () => 50 * 2 ** 30,
    ...given,
  };
}

const FACTS: ServerFacts = {
  cpus: 2,
  memoryBytes: 8 * 2 ** 30,
  cacheDir: '/var/cache/loramux',
  loadAddon: () => ({ instructionSet: 'avx2', runtime: '1.30.0' }),
};

/** A build and a machine that lack everything. */
const NO_CUDA: CudaFacts = {
  runtime: '/runtime',
  probe: () => ({
    hasDriver: false,
    devices: [],
    obstacles: [{ part: 'addon', found: 'this build is without CUDA', advice: 'npm run build:cuda' }],
  }),
};

function named(findings: readonly Finding[], name: string): Finding {
  const found = findings.find((finding) => finding.name === name);
  assert.ok(found !== undefined, name);
  return found;
}

test('a bare machine with the addon serves: only tools are missing, each with what to do', () => {
  const findings = serverFindings(host(), FACTS);
  assert.deepEqual(
    findings.filter(({ status }) => status !== 'ok').map(({ name, status }) => [name, status]),
    [
      ['python3', 'missing'],
      ['cargo', 'missing'],
    ],
  );
  assert.ok(findings.every(({ status, advice }) => (status === 'ok') === (advice === null)));
  assert.equal(named(findings, 'addon').found, 'avx2 kernels on ONNX Runtime 1.30.0');
});

test('an old Node, an addon that does not load and a cache that cannot be reached fail', () => {
  const broken = {
    ...FACTS,
    loadAddon: (): never => {
      throw new LoramuxError('ERR_NATIVE_LOAD', 'could not load the native addon');
    },
  };
  const findings = serverFindings(host({ nodeVersion: '20.18.3', freeBytes: () => null }), broken);
  const failures = findings.filter(({ status }) => status === 'failed').map(({ name }) => name);
  assert.deepEqual(failures, ['node', 'addon', 'cache']);
  assert.match(named(findings, 'addon').found, /could not load the native addon/);
  assert.equal(named(serverFindings(host({ nodeVersion: '24.1.0' }), FACTS), 'node').status, 'ok');
});

test('room is asked for where the cache will lie', () => {
  const asked: string[] = [];
  const small = host({
    exists: (path) => path === '/var' || path === '/',
    freeBytes: (path) => {
      asked.push(path);
      return 1;
    },
  });
  assert.equal(named(serverFindings(small, FACTS), 'cache').status, 'missing');
  assert.deepEqual(asked, ['/var']);
});

test('a machine without CUDA is told how to get each part, and that a CPU needs none', () => {
  const none = cudaFindings(host(), NO_CUDA);
  assert.deepEqual(
    none.map(({ name, status }) => [name, status]),
    ['gpu', 'cuda addon', 'provider', 'cuda', 'device', 'nvcc'].map((name) => [name, 'missing']),
  );
  assert.match(named(none, 'cuda').found, /libcudart\.so\.13.*libcurand\.so\.10/);
  assert.match(named(none, 'provider').found, /not in \/runtime: libonnxruntime\.so\.1/);
  assert.match(named(none, 'cuda addon').advice ?? '', /only needed to compute on a GPU: npm run build:cuda/);
  assert.ok(none.every(({ advice }) => advice !== null));
});

test("CUDA's parts are found by the loader's list, the environment, the runtime's folder and the usual places", () => {
  const programs: Readonly<Record<string, string>> = {
    'nvidia-smi': 'NVIDIA H100 80GB HBM3, 81559 MiB, 580.65.06\nNVIDIA H100 80GB HBM3, 81559 MiB, 580.65.06',
    ldconfig: '\tlibcudart.so.13 (libc6,x86-64) => /x/libcudart.so.13',
    '/opt/cuda/bin/nvcc': 'Cuda compilation tools, release 13.0, V13.0.48',
  };
  const there = [
    '/opt/cuda/lib64/libcublasLt.so.13',
    '/a/libcublas.so.13',
    '/runtime/libcurand.so.10',
    '/runtime/libonnxruntime.so.1',
    '/runtime/libonnxruntime_providers_shared.so',
    '/runtime/libonnxruntime_providers_cuda.so',
  ];
  const gpu = {
    totalBytes: 2 ** 36,
    freeBytes: 2 ** 35,
    capability: 90,
    driver: 13000,
    runtime: 13000,
    emulated: false,
  };
  const all = cudaFindings(
    host({
      env: { CUDA_HOME: '/opt/cuda', LD_LIBRARY_PATH: '/a:' },
      run: (program) => programs[program] ?? null,
      exists: (path) => there.includes(path),
    }),
    {
      runtime: '/runtime',
      probe: () => ({ hasDriver: true, obstacles: [], devices: [{ name: 'NVIDIA H100', ...gpu }] }),
    },
  );
  assert.deepEqual(
    all.map(({ status }) => status),
    Array.from({ length: 6 }, () => 'ok'),
  );
  assert.equal(named(all, 'nvcc').found, '13.0');
  assert.match(named(all, 'gpu').found, /^NVIDIA H100.*; NVIDIA H100/);
  assert.equal(named(all, 'device').found, 'cuda:0 NVIDIA H100, sm_90, 32.0 GiB free');
});

test('a driver without devices is told from none, and one for an older CUDA from a new one', () => {
  const read = (path: string) => (path === '/proc/driver/nvidia/version' ? 'NVRM version: 580.65.06\nGCC' : null);
  assert.match(named(cudaFindings(host({ read }), NO_CUDA), 'gpu').found, /^NVRM version: 580\.65\.06, but/);
  const run = (program: string) => (program === 'nvidia-smi' ? 'NVIDIA A100, 40960 MiB, 550.54.15' : null);
  const old = named(cudaFindings(host({ run }), NO_CUDA), 'gpu');
  assert.deepEqual([old.status, old.advice], ['missing', 'install a driver of release 580 or newer, for CUDA 13']);
});

test('the report has what to do below what is missing', () => {
  const lines = findingLines([
    { name: 'node', status: 'ok', found: '22.1.0', advice: null },
    { name: 'python3', status: 'missing', found: 'not found', advice: 'install it' },
  ]);
  assert.deepEqual(lines, [
    'node     ok       22.1.0',
    'python3  missing  not found',
    '                  → install it',
  ]);
});
