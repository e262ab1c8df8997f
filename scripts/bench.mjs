// `npm run bench`, `bench:page`, `bench:loads`, `bench:zipf` and `precision`, with flags behind `--`: builds what is stale, then
// measures.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ensureGenaiEnvironment } from './genai-env.mjs';
import { ensurePythonEnvironment } from './python-env.mjs';
import { buildNative, buildTypeScript, installPackages, needTools, root, run, stop } from './steps.mjs';

const PROGRAMS = ['main', 'page', 'loads', 'zipf', 'precision/main'];

/** Peers from npm live in bench/, apart from what the server needs. Where they cannot be installed they are absent. */
function installPeers() {
  const folder = join(root, 'bench');
  const lock = readFileSync(join(folder, 'package-lock.json'), 'utf8');
  const stamp = join(folder, 'node_modules', '.loramux-lock');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === lock) return;
  // Its optional packages are builds for graphics cards and other machines.
  const args = ['install', '--no-save', '--ignore-scripts', '--omit=optional', '--no-audit', '--no-fund'];
  const { status } = spawnSync('npm', args, { cwd: folder, stdio: 'inherit' });
  if (status === 0) writeFileSync(stamp, lock);
  else console.error('the peers from npm could not be installed: the benchmark goes on without them');
}

/** Interpreter of a peer's environment; where that cannot be made, one in which the peer will not start. */
function interpreterOf(peer, ensure) {
  try {
    return ensure();
  } catch (error) {
    console.error(`${error.message}: the benchmark goes on without ${peer}`);
    return 'python3';
  }
}

const [what, ...flags] = process.argv.slice(2);
if (!PROGRAMS.includes(what)) stop(`no such benchmark: ${what}; there are ${PROGRAMS.join(', ')}`);
needTools('cargo', 'python3');
installPackages();
buildNative();
buildTypeScript();
if (what === 'main' && !flags.includes('--no-peers')) {
  installPeers();
  flags.push('--python', interpreterOf('PEFT', ensurePythonEnvironment));
  flags.push('--genai-python', interpreterOf('onnxruntime-genai', ensureGenaiEnvironment));
}
run(process.execPath, [join(root, 'dist', 'bench', `${what}.js`), ...flags]);
