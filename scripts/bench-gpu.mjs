// `npm run bench:gpu [-- --shape llama-2-7b,llama-3.1-8b --out FILE …]`: what an NVIDIA GPU does. The kernels' benches, then
// the engine over random weights of real shapes, made on the spot. Lines of JSON in bench/results/, facts of the device first.
import { spawnSync } from 'node:child_process';
import { appendFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { ensureNvcc } from './cuda-toolkit.mjs';
import { compileForGpu } from './kernels.mjs';
import { isPacked, packedPrograms } from './packed.mjs';
import { buildCuda, buildNative, buildTypeScript, installPackages, needTools, root, run, stop } from './steps.mjs';

/** Builds what is stale, and returns the paths of the kernels' benches. */
function fromSources() {
  needTools('cargo', 'python3');
  installPackages();
  buildNative();
  buildTypeScript();
  const nvcc = ensureNvcc();
  buildCuda(nvcc);
  run(process.execPath, [join(root, 'scripts', 'cuda-runtime.mjs')]);
  return compileForGpu('bench', nvcc);
}

/** Runs a kernels' bench; its lines of JSON become records, the rest is shown. */
function recordKernels(program, out) {
  const { status, stdout } = spawnSync(program, [], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
  if (status !== 0) stop(`${program} failed with ${status}: see its output above`);
  for (const line of stdout.split('\n')) {
    if (line.startsWith('{')) appendFileSync(out, `${JSON.stringify({ kind: 'kernel', ...JSON.parse(line) })}\n`);
    else if (line !== '') console.log(line);
  }
}

const flags = process.argv.slice(2);
const at = flags.indexOf('--out');
const stamp = new Date().toISOString().slice(0, 19).replaceAll(':', '');
const out = resolve(at < 0 ? join(root, 'bench', 'results', `gpu-${stamp}.jsonl`) : (flags[at + 1] ?? ''));
if (at >= 0) flags.splice(at, 2);
let programs;
try {
  programs = isPacked() ? packedPrograms('bench') : fromSources();
} catch (error) {
  stop(error.message);
}
mkdirSync(dirname(out), { recursive: true });
writeFileSync(out, '');
for (const program of programs) recordKernels(program, out);
run(process.execPath, [join(root, 'dist', 'bench', 'gpu', 'main.js'), '--out', out, ...flags]);
console.log(out);
