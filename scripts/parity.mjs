// `npm run parity [-- --remake] [-- --out FILE]`: builds what is stale and writes docs/parity.md from the committed
// fixtures. With --remake they are computed by PEFT first, in the pinned Python environment.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { buildNative, buildTypeScript, installPackages, needTools, root, run } from './steps.mjs';

const flags = process.argv.slice(2);
const remake = flags.includes('--remake');
needTools('cargo', 'python3');
installPackages();
buildNative();
buildTypeScript();
if (remake) {
  const stdio = ['ignore', 'pipe', 'inherit'];
  const python = execFileSync(process.execPath, [join(root, 'scripts', 'python-env.mjs')], { encoding: 'utf8', stdio });
  run(python.trim(), [join(root, 'tests', 'fixtures', 'synthetic', 'make.py')]);
}
run(process.execPath, [
  join(root, 'dist', 'bench', 'parity', 'main.js'),
  ...flags.filter((flag) => flag !== '--remake'),
]);
