// The programs of native/cuda: tests and benches of the kernels, on the emulator and for GPUs.
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { root, run } from './steps.mjs';

const sources = join(root, 'native', 'cuda');

/** Folders of their builds, apart because objects of one are no good for the other. */
const KERNEL_BUILDS = {
  emulated: join(root, 'native', 'target', 'kernels', 'emulated'),
  gpu: join(root, 'native', 'target', 'kernels', 'gpu'),
};

/** Names of the programs of a kind, `test` or `bench`. */
export function kernelPrograms(kind) {
  const names = readdirSync(join(sources, 'tests')).filter((name) => new RegExp(`^${kind}_\\w+\\.cpp$`).test(name));
  return names.map((name) => name.slice(0, -'.cpp'.length)).sort();
}

/** Builds and runs the programs on the emulator: warnings are errors, and so is a program that fails. */
export function runEmulated(kind) {
  run('make', ['--silent', '-j2', '-C', sources, `${kind}-emulated`, `OUT=${KERNEL_BUILDS.emulated}`]);
}

/** Compiles the programs of a kind for GPUs and returns their paths. */
export function compileForGpu(kind, nvcc) {
  const paths = kernelPrograms(kind).map((name) => join(KERNEL_BUILDS.gpu, 'gpu', name));
  if (paths.length > 0)
    run('make', ['--silent', '-j2', '-C', sources, ...paths, `OUT=${KERNEL_BUILDS.gpu}`, `NVCC=${nvcc}`]);
  return paths;
}

/** Compiles and runs them on the GPU; without one each says that it is skipped, and why. */
export function runForGpu(kind, nvcc) {
  run('make', ['--silent', '-j2', '-C', sources, `${kind}-gpu`, `OUT=${KERNEL_BUILDS.gpu}`, `NVCC=${nvcc}`]);
}
