// `npm run bench`, `npm run bench:loads` and `npm run bench:zipf`, with flags behind `--`: builds what is stale, then measures.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { buildNative, buildTypeScript, installPackages, needTools, root, run, stop } from './steps.mjs';

const [what, ...flags] = process.argv.slice(2);
if (!['mixed', 'loads', 'zipf'].includes(what)) stop(`no such benchmark: ${what}; there are mixed, loads and zipf`);
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
