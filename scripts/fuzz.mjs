// `npm run fuzz [-- N]`: N hostile inputs (a million without it) for each reader of adapter files: the configuration,
// and the safetensors header in native code. `npm test` runs the same properties on a few thousand.
import { join } from 'node:path';
import { buildTypeScript, installPackages, needTools, root, run, stop } from './steps.mjs';

/** Properties of each reader, among which the inputs are shared. */
const PROPERTIES = 3;

const [given = '1000000'] = process.argv.slice(2);
const wanted = Number(given);
if (!Number.isSafeInteger(wanted) || wanted < 1) stop(`expected a number of inputs, found ${given}`);
const each = String(Math.ceil(wanted / PROPERTIES));

needTools('cargo');
installPackages();
buildTypeScript();
const config = join(root, 'dist', 'tests', 'unit', 'adapters', 'hostile-config.test.js');
run(process.execPath, ['--test', '--test-timeout=3600000', config], { env: { ...process.env, FUZZ_RUNS: each } });
run('cargo', ['test', '--locked', '--test', 'hostile_files'], {
  cwd: join(root, 'native'),
  env: { ...process.env, PROPTEST_CASES: each },
});
