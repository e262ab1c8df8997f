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
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { stubCudaLibraries } from './torch-cpu-stubs.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const requirements = join(root, 'bench', 'peers', 'requirements.txt');
const environment = join(root, '.venv-oracle');
const stamp = join(environment, 'requirements.sha256');
const interpreter = join(environment, process.platform === 'win32' ? 'Scripts/python.exe' : 'bin/python');

/** Runs a tool with its output on our stderr: stdout is for the interpreter's path. */
function run(command, args) {
  const result = spawnSync(command, args, { stdio: ['ignore', 2, 'inherit'] });
  if (result.status !== 0) throw new Error(`\`${command} ${args.join(' ')}\` failed: see its output above`);
}

function output(command, args) {
  const result = spawnSync(command, args, { encoding: 'utf8' });
  return result.status === 0 ? result.stdout.trim() : null;
}

/** The Python to start from, at least 3.11 and with the venv module. */
function basePython() {
  const python = process.env.PYTHON ?? 'python3';
  const probe = 'import sys, venv, ensurepip; print(sys.version_info >= (3, 11), sys.version.split()[0])';
  const [recentEnough, version] = output(python, ['-c', probe])?.split(' ') ?? [];
  if (version === undefined)
    throw new Error(
      `${python} with venv was not found: install Python 3.11 or newer (Debian: apt-get install python3-venv), or name one in PYTHON`,
    );
  if (recentEnough !== 'True')
    throw new Error(`expected Python 3.11 or newer, ${python} is ${version}: install one and name it in PYTHON`);
  return python;
}

function installTorchDependencies() {
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
  const wanted = createHash('sha256').update(readFileSync(requirements)).digest('hex');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return interpreter;
  run(basePython(), ['-m', 'venv', '--clear', environment]);
  const install = ['install', '--quiet', '--disable-pip-version-check', '--no-deps', '-r', requirements];
  run(interpreter, ['-m', 'pip', ...install]);
  if (process.platform === 'linux') installTorchDependencies();
  run(interpreter, ['-c', 'import torch, transformers, peft, gguf, onnx; torch.ones(2) + 1']);
  writeFileSync(stamp, wanted);
  return interpreter;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  try {
    process.stdout.write(`${ensurePythonEnvironment()}\n`);
  } catch (error) {
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
  }
}
