#!/usr/bin/env node
/**
 * Makes, or finds again, the throw-away Python environment of the fixtures, the PEFT peer and the training example,
 * and prints the path of its interpreter:
 *
 *   $(node scripts/python-env.mjs) bench/peers/peft_mixed.py …
 *
 * The environment lives in the ignored folder `.venv-oracle/` and is made anew when bench/peers/requirements.txt
 * changes. PYTHON names another interpreter to start from than `python3`.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ensureVenv, output, printInterpreter, run } from './python-venv.mjs';
import { root } from './steps.mjs';
import { stubCudaLibraries } from './torch-cpu-stubs.mjs';

const requirements = join(root, 'bench', 'peers', 'requirements.txt');

function installTorchDependencies(interpreter) {
  const sitePackages = output(interpreter, ['-c', 'import sysconfig; print(sysconfig.get_path("platlib"))']);
  try {
    stubCudaLibraries(sitePackages);
    if (output(interpreter, ['-c', 'import torch; torch.ones(2) + 1']) !== null) return;
    process.stderr.write('torch does not load with stubs: installing the CUDA libraries it is linked against\n');
  } catch (error) {
    process.stderr.write(`${error.message}: installing the CUDA libraries that torch is linked against\n`);
  }
  const torch = /^torch==\S+/m.exec(readFileSync(requirements, 'utf8'))[0];
  run(interpreter, ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', torch]);
}

/** Returns the absolute path of an interpreter that has every pinned package; makes it when needed (1.7 GB on disk). */
export function ensurePythonEnvironment() {
  return ensureVenv({
    folder: '.venv-oracle',
    requirements,
    finish: (interpreter) => {
      if (process.platform === 'linux') installTorchDependencies(interpreter);
      run(interpreter, ['-c', 'import torch, transformers, peft, gguf, onnx; torch.ones(2) + 1']);
    },
  });
}

printInterpreter(import.meta.url, ensurePythonEnvironment);
