// `npm run bench` and `npm run bench:loads`, with flags behind `--`: builds what is stale, then measures.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { buildNative, buildTypeScript, installPackages, needTools, root, run, stop } from './steps.mjs';

const [what, ...flags] = process.argv.slice(2);
if (what !== 'mixed' && what !== 'loads') stop(`no such benchmark: ${what}; there are mixed and loads`);
needTools('cargo', 'python3');
installPackages();
buildNative();
buildTypeScript();
if (what === 'mixed' && !flags.includes('--no-peer')) {
  const stdio = ['ignore', 'pipe', 'inherit'];
  const python = execFileSync(process.execPath, [join(root, 'scripts', 'python-env.mjs')], { encoding: 'utf8', stdio });
  flags.push('--peer', python.trim());
}
run(process.execPath, [join(root, 'dist', 'bench', `${what}.js`), ...flags]);
