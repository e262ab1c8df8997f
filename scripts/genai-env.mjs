#!/usr/bin/env node
/**
 * Makes, or finds again, the throw-away Python environment of the benchmark's peer onnxruntime-genai, and prints the path
 * of its interpreter. It lives in the ignored folder `.venv-genai/` and reads torch and the rest from `.venv-oracle/`.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ensurePythonEnvironment } from './python-env.mjs';
import { ensureVenv, output, printInterpreter, run } from './python-venv.mjs';
import { root } from './steps.mjs';

const PACKAGES = ['-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'];

/** Returns the absolute path of an interpreter that has onnxruntime-genai and its builder; makes it when needed. */
export function ensureGenaiEnvironment() {
  const peft = ensurePythonEnvironment();
  return ensureVenv({
    folder: '.venv-genai',
    requirements: join(root, 'bench', 'peers', 'genai-requirements.txt'),
    finish: (interpreter) => {
      writeFileSync(join(output(interpreter, PACKAGES), 'peft-environment.pth'), `${output(peft, PACKAGES)}\n`);
      run(interpreter, ['-c', 'import onnxruntime_genai, onnx_ir, torch, transformers']);
    },
  });
}

printInterpreter(import.meta.url, ensureGenaiEnvironment);
