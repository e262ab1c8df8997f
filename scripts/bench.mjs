// `npm run bench [-- flags]`: builds what is stale, makes the peers' Python environment, runs the comparison.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { buildNative, buildTypeScript, installPackages, needTools, root, run } from './steps.mjs';

const flags = process.argv.slice(2);
needTools('cargo', 'python3');
installPackages();
buildNative();
buildTypeScript();
if (!flags.includes('--no-peer')) {
  const stdio = ['ignore', 'pipe', 'inherit'];
  const python = execFileSync(process.execPath, [join(root, 'scripts', 'python-env.mjs')], { encoding: 'utf8', stdio });
  flags.push('--peer', python.trim());
}
run(process.execPath, [join(root, 'dist', 'bench', 'mixed.js'), ...flags]);
