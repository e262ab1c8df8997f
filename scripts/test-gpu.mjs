// `npm run test:gpu`: everything that needs an NVIDIA GPU. Fails where there is none; `npm test` names what it skips.
import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { ensureNvcc } from './cuda-toolkit.mjs';
import { runForGpu } from './kernels.mjs';
import { isPacked, packedPrograms } from './packed.mjs';
import { buildCuda, buildNative, buildTypeScript, installPackages, needTools, root, run, stop } from './steps.mjs';

/** Compiles all of it here, and runs the kernels' and the crate's tests. */
function fromSources() {
  needTools('cargo', 'python3');
  installPackages();
  buildNative();
  buildTypeScript();
  const nvcc = ensureNvcc();
  console.log('\n== kernels');
  runForGpu('test', nvcc);
  run(process.execPath, [join(root, 'scripts', 'cuda-runtime.mjs')]);
  console.log('\n== crate');
  const env = { ...process.env, LORAMUX_NVCC: nvcc };
  run('cargo', ['test', '--locked', '--features', 'cuda', '--test', 'cuda*'], { cwd: join(root, 'native'), env });
  buildCuda(nvcc);
}

/** What a pack brings compiled; its crate's tests need Cargo and stay behind. */
function fromPack() {
  console.log('\n== kernels');
  for (const program of packedPrograms('test')) {
    console.log(basename(program));
    run(program, []);
  }
  console.log('\n== crate\nskipped: this is a pack, and Cargo is needed to build these tests');
}

const [unknown] = process.argv.slice(2);
if (unknown !== undefined) stop(`${unknown}: test:gpu takes no arguments, it runs everything`);
try {
  if (isPacked()) fromPack();
  else fromSources();
} catch (error) {
  stop(error.message);
}
const { NO_GPU, GPU_NAME, IS_EMULATED } = await import('../dist/tests/helpers/gpu.js');
if (NO_GPU !== false) stop(`the engine's tests need a GPU: ${NO_GPU}`);
if (IS_EMULATED) stop('native/loramux-cuda.node is the emulated addon: npm run build:cuda');
console.log(`\n== engine on ${GPU_NAME}`);
const folder = join(root, 'dist', 'tests', 'gpu');
const files = readdirSync(folder).filter((name) => name.endsWith('.test.js'));
run(process.execPath, ['--test', '--test-concurrency=1', ...files.map((name) => join(folder, name))]);
console.log('\nall tests on the GPU passed');
