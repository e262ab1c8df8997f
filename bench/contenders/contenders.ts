/** Who takes part in the throughput scenarios: one line each. */
import { join } from 'node:path';
import type { AdapterDtype } from '../../src/core/adapter.js';
import type { Precision } from '../../src/core/model-manifest.js';
import { packageRoot } from '../../src/engine/addon.js';

/** What every contender is started with. */
export interface BenchSetup {
  readonly cacheDir: string;
  /** Holds the adapters' directories. */
  readonly adapterRoot: string;
  /** The demo model as GGUF. */
  readonly gguf: string;
  readonly threads: number;
  /** Interpreter of the peers' Python environment. */
  readonly python: string;
  /** The interpreter that has onnxruntime-genai. */
  readonly genaiPython: string;
}

export interface Contender {
  readonly name: string;
  readonly kind: 'loramux' | 'peer';
  /** What its directories of adapters must hold beside PEFT's files. */
  readonly needs?: 'gguf-adapters';
  /** Takes part without adapters only. */
  readonly baseOnly?: boolean;
  /** Timed steps of a decode: less where a step takes a second. */
  readonly steps: number;
  readonly command: (setup: BenchSetup) => readonly [program: string, ...args: string[]];
}

const dist = (...parts: string[]): string => join(packageRoot(), 'dist', 'bench', ...parts);
const source = (...parts: string[]): string => join(packageRoot(), 'bench', ...parts);

function common({ adapterRoot, threads }: BenchSetup): string[] {
  return ['--adapters', adapterRoot, '--threads', String(threads)];
}

function loramux(precision: Precision, adapterDtype: AdapterDtype = 'file'): Contender {
  return {
    name: `loramux ${precision}${adapterDtype === 'file' ? '' : ` + ${adapterDtype} adapters`}`,
    kind: 'loramux',
    steps: 16,
    command: (setup) => [
      process.execPath,
      dist('contenders', 'loramux.js'),
      ...['--precision', precision, '--adapter-dtype', adapterDtype, '--cache', setup.cacheDir],
      ...common(setup),
    ],
  };
}

function peft(dtype: 'float32' | 'bfloat16'): Contender {
  return {
    name: `PEFT ${dtype}`,
    kind: 'peer',
    steps: 4,
    command: (setup) => [
      setup.python,
      source('peers', 'peft_mixed.py'),
      ...['--gguf', setup.gguf, '--dtype', dtype],
      ...common(setup),
    ],
  };
}

function genai(precision: 'fp32' | 'int4'): Contender {
  return {
    name: `onnxruntime-genai ${precision}`,
    kind: 'peer',
    baseOnly: true,
    steps: 12,
    command: ({ genaiPython, gguf, cacheDir, threads }) => [
      genaiPython,
      source('peers', 'genai.py'),
      ...['--gguf', gguf, '--models', join(cacheDir, 'bench-models')],
      ...['--precision', precision, '--threads', String(threads)],
    ],
  };
}

const llamaCpp: Contender = {
  name: 'llama.cpp Q4_1',
  kind: 'peer',
  needs: 'gguf-adapters',
  steps: 12,
  command: (setup) => [process.execPath, source('peers', 'llama-cpp.mjs'), ...['--gguf', setup.gguf], ...common(setup)],
};

export const CONTENDERS: readonly Contender[] = [
  loramux('f32'),
  loramux('f32', 'int8'),
  loramux('f32', 'int4'),
  loramux('w8'),
  loramux('w4'),
  loramux('w4', 'int8'),
  loramux('w4', 'int4'),
  peft('float32'),
  peft('bfloat16'),
  llamaCpp,
  genai('fp32'),
  genai('int4'),
];
