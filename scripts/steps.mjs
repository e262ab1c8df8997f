// What `npm start`, `npm test` and the Dockerfile share: tools, installation, builds.
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createHash } from 'node:crypto';
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

/** True when `stamp` records other contents of `files` than they have now. */
function changed(stamp, files) {
  const hash = createHash('sha256');
  for (const file of files) hash.update(readFileSync(join(root, file)));
  const now = hash.digest('hex');
  const path = join(root, stamp);
  if (existsSync(path) && readFileSync(path, 'utf8') === now) return null;
  return () => writeFileSync(path, now);
}

/** `npm ci`, when the lock file is not what is installed. */
export function installPackages() {
  const mark = changed('node_modules/.loramux-lock', ['package-lock.json']);
  if (mark === null) return;
  // The environment twin of .npmrc's switch, for package managers that run install scripts all the same.
  run('npm', ['ci', '--no-audit', '--no-fund'], { env: { ...process.env, ONNXRUNTIME_NODE_INSTALL: 'skip' } });
  mark();
}

/** The addon: cargo decides what is stale; the copy is replaced atomically, so that a running server keeps its own. */
export function buildNative() {
  needTools('cargo');
  const library = { linux: 'libloramux_native.so', darwin: 'libloramux_native.dylib', win32: 'loramux_native.dll' }[process.platform];
  if (library === undefined) stop(`no native build for ${process.platform}: run on Linux or macOS`);
  run('cargo', ['build', '--release', '--locked'], { cwd: join(root, 'native') });
  const built = join(root, 'native', 'target', 'release', library);
  const addon = join(root, 'native', 'loramux.node');
  if (existsSync(addon) && statSync(addon).mtimeMs >= statSync(built).mtimeMs) return;
  copyFileSync(built, `${addon}.new`);
  renameSync(`${addon}.new`, addon);
}

export function buildTypeScript({ clean = false } = {}) {
  if (clean) rmSync(join(root, 'dist'), { recursive: true, force: true });
  mkdirSync(join(root, 'dist'), { recursive: true });
  run('npx', ['--no-install', 'tsc', '-p', 'tsconfig.json']);
}
