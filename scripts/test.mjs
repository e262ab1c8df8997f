// `npm test [part …]`: installs, builds and runs everything that needs no GPU. With names, only those parts.
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { ensureClientEnvironment } from './client-env.mjs';
import { ensureNvcc } from './cuda-toolkit.mjs';
import { kernelPrograms, runEmulated, runForGpu } from './kernels.mjs';
import { buildNative, buildTypeScript, installPackages, needTools, root, run, stop } from './steps.mjs';

/** Compiled test files below a folder; an empty set is a failure, not a success. */
function testFiles(folder) {
  const files = [];
  const visit = (path) => {
    for (const name of readdirSync(path).sort()) {
      const file = join(path, name);
      if (statSync(file).isDirectory()) visit(file);
      else if (name.endsWith('.test.js')) files.push(file);
    }
  };
  visit(join(root, 'dist', 'tests', folder));
  if (files.length === 0) stop(`no test files in tests/${folder}`);
  return files;
}

/** `under`: arguments of a Node program that runs the command after them. */
function nodeTests(folder, { concurrency = 2, under = [], env = {} } = {}) {
  // A test that hangs fails by name instead of holding everything up.
  const limits = [`--test-concurrency=${concurrency}`, '--test-timeout=300000'];
  const command = [process.execPath, '--test', ...limits, '--test-reporter=spec', ...testFiles(folder)];
  const [program, ...args] = under.length === 0 ? command : [process.execPath, ...under, ...command];
  run(program, args, { env: { ...process.env, ...env } });
}

/**
 * The CUDA side as far as it goes without a GPU: kernels and engine on the emulator, everything compiled by nvcc, and the
 * tests that need a GPU named and skipped. `npm run test:gpu` runs those.
 */
function cudaTests() {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    console.log(`skipped: kernels are built on Linux x64, this is ${process.platform} ${process.arch}`);
    return;
  }
  runEmulated('test');
  const features = ['--locked', '--features', 'cuda-emulated'];
  run('cargo', ['clippy', '--all-targets', ...features, '--', '-D', 'warnings'], native);
  run('cargo', ['test', ...features, '--test', 'cuda*'], native);
  let nvcc;
  try {
    nvcc = ensureNvcc();
  } catch (error) {
    stop(`the kernels are compiled by nvcc: ${error.message}`);
  }
  for (const kind of ['test', 'bench']) if (kernelPrograms(kind).length > 0) runForGpu(kind, nvcc);
  nodeTests('gpu', { concurrency: 1 });
}

/** The clients' own packages against one server on the demo model. */
function clientTests() {
  let python;
  try {
    python = ensureClientEnvironment();
  } catch (error) {
    stop(`the tests of the Python clients need their packages: ${error.message}`);
  }
  const under = [join(root, 'dist', 'tests', 'clients', 'with-server.js')];
  nodeTests('clients', { concurrency: 1, under, env: { CLIENTS_PYTHON: python } });
}

const native = { cwd: join(root, 'native') };
const npmBin = (name, ...args) => run('npx', ['--no-install', name, ...args]);

/** In the order in which they fail fastest. Real models run alone: each wants both cores and 1 GB. */
const PARTS = {
  lint: () => npmBin('biome', 'ci', '--error-on-warnings', 'src', 'tests', 'bench', 'scripts'),
  types: () => buildTypeScript(),
  format: () => run('cargo', ['fmt', '--check'], native),
  clippy: () => run('cargo', ['clippy', '--all-targets', '--locked', '--', '-D', 'warnings'], native),
  native: () => run('cargo', ['test', '--locked'], native),
  cuda: cudaTests,
  unit: () => nodeTests('unit'),
  http: () => nodeTests('http'),
  grpc: () => nodeTests('grpc'),
  addon: () => nodeTests('addon', { concurrency: 1 }),
  synthetic: () => nodeTests('synthetic', { concurrency: 1 }),
  cli: () => nodeTests('cli', { concurrency: 1 }),
  model: () => nodeTests('model', { concurrency: 1 }),
  api: () => nodeTests('api', { concurrency: 1 }),
  clients: clientTests,
};

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !(name in PARTS));
if (unknown.length > 0) stop(`no such part: ${unknown.join(', ')}; there are ${Object.keys(PARTS).join(', ')}`);

needTools('cargo', 'python3');
installPackages();
buildNative();
buildTypeScript();
for (const name of wanted.length > 0 ? wanted : Object.keys(PARTS)) {
  console.log(`\n== ${name}`);
  PARTS[name]();
}
console.log('\nall parts passed');
