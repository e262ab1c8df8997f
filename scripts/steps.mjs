// What `npm start`, `npm test` and the Dockerfile share: tools, installation, builds.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('..', import.meta.url));

/** Prints one line and ends the process. */
export function stop(message) {
  console.error(message);
  process.exit(1);
}

/** Runs a command with its output shown; a failure ends the process with its status. */
export function run(command, args, options = {}) {
  const done = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options });
  if (done.error !== undefined) stop(`${command}: ${done.error.message}`);
  if (done.signal !== null) stop(`${command} was ended by ${done.signal}`);
  if (done.status !== 0) process.exit(done.status ?? 1);
}

function found(command) {
  return spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0;
}

/** Each tool with the line to print when it is missing. */
const TOOLS = {
  cargo: 'cargo is missing: install Rust 1.92 or newer (rustup, or your system’s package) to build the native addon',
  python3: 'python3 is missing: install Python 3 with pip; it fetches the demo model and runs some tests',
};

export function needTools(...names) {
  const [major] = process.versions.node.split('.').map(Number);
  if (major < 20) stop(`Node ${process.versions.node} is too old: install Node 20 or newer`);
  for (const name of names) if (!found(name)) stop(TOOLS[name]);
}

/** Paths, sizes and times of everything under `paths`: changes when a build's input does. */
function fingerprint(paths) {
  const hash = createHash('sha256');
  const visit = (path) => {
    const info = statSync(path, { throwIfNoEntry: false });
    if (info === undefined) return;
    if (info.isDirectory()) {
      for (const name of readdirSync(path).sort()) visit(join(path, name));
    } else {
      hash.update(`${path}\0${info.size}\0${info.mtimeMs}\n`);
    }
  };
  for (const path of paths) visit(join(root, path));
  return hash.digest('hex');
}

/** Runs `build` unless `output` was built from the same `inputs` before. */
function unlessFresh(output, inputs, build) {
  const stamp = join(root, 'node_modules', `.loramux-${output.replaceAll('/', '-')}`);
  const now = fingerprint(inputs);
  if (existsSync(join(root, output)) && existsSync(stamp) && readFileSync(stamp, 'utf8') === now) return;
  build();
  writeFileSync(stamp, now);
}

/** Installs what the lock file says, when the lock file is not what is installed. */
export function installPackages() {
  const lock = readFileSync(join(root, 'package-lock.json'), 'utf8');
  const stamp = join(root, 'node_modules', '.loramux-lock');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === lock) return;
  // NOTE: not `npm ci`, which refuses a lock file without every platform's optional packages. The environment twin of .npmrc's switch, for package managers that run install scripts all the same.
  run('npm', ['install', '--no-save', '--ignore-scripts'], {
    env: { ...process.env, ONNXRUNTIME_NODE_INSTALL: 'skip' },
  });
  writeFileSync(stamp, lock);
}

const LIBRARIES = { linux: 'libloramux_native.so', darwin: 'libloramux_native.dylib', win32: 'loramux_native.dll' };

const CRATE = ['native/src', 'native/build.rs', 'native/Cargo.toml', 'native/Cargo.lock', 'native/rust-toolchain.toml'];

/** Builds the crate into `target` and puts it in the place of `addon`, atomically: a running server keeps its own. */
function buildAddon(addon, target, args, env) {
  needTools('cargo');
  const library = LIBRARIES[process.platform];
  if (library === undefined) stop(`no native build for ${process.platform}: run on Linux or macOS`);
  const build = ['build', '--release', '--locked', '--target-dir', join(root, target), ...args];
  run('cargo', build, { cwd: join(root, 'native'), env: { ...process.env, ...env } });
  const path = join(root, addon);
  copyFileSync(join(root, target, 'release', library), `${path}.new`);
  renameSync(`${path}.new`, path);
}

/** The addon for CPUs. */
export function buildNative() {
  const addon = 'native/loramux.node';
  unlessFresh(addon, CRATE, () => buildAddon(addon, 'native/target', [], {}));
}

/** The addon for NVIDIA GPUs, its kernels compiled by `nvcc`. */
export function buildCuda(nvcc) {
  const addon = 'native/loramux-cuda.node';
  unlessFresh(addon, [...CRATE, 'native/cuda'], () =>
    buildAddon(addon, 'native/target/cuda', ['--features', 'cuda'], { LORAMUX_NVCC: nvcc }),
  );
}

export function buildTypeScript() {
  unlessFresh('dist', ['src', 'tests', 'bench', 'tsconfig.json', 'package-lock.json'], () => {
    // Files of sources that are gone would still be found by the test runner.
    rmSync(join(root, 'dist'), { recursive: true, force: true });
    run(process.execPath, [join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', 'tsconfig.json']);
    copyDocsPage();
  });
}

/** What /docs serves of Swagger UI: its package is needed to build, not to run. */
function copyDocsPage() {
  const folder = join(root, 'dist', 'docs-page');
  mkdirSync(folder, { recursive: true });
  for (const file of [
    'swagger-ui-bundle.js',
    'swagger-ui-bundle.js.LICENSE.txt',
    'swagger-ui.css',
    'LICENSE',
    'NOTICE',
  ]) {
    copyFileSync(join(root, 'node_modules', 'swagger-ui-dist', file), join(folder, file));
  }
}
