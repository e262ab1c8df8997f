// Files out of pinned Python wheels, without a Python environment around them: CUDA's compiler and libraries.
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from './python-venv.mjs';
import { root } from './steps.mjs';

/** Wheels are taken for this Python and these C libraries, whatever runs here: nothing of them is imported. */
const TARGET = [
  ...['--python-version', '3.11', '--implementation', 'cp', '--only-binary', ':all:'],
  ...['2_28', '2_27', '2_17', '2_12'].flatMap((tag) => ['--platform', `manylinux_${tag}_x86_64`]),
  ...['2014', '2010'].flatMap((tag) => ['--platform', `manylinux${tag}_x86_64`]),
];

/**
 * Unpacks the wheels that `native/cuda/wheels/NAME.txt` pins by version and hash into the ignored folder `.cuda/NAME`,
 * or finds them again. Returns that folder; throws an Error that says what to do.
 */
export function ensureWheels(name) {
  const requirements = join(root, 'native', 'cuda', 'wheels', `${name}.txt`);
  const folder = join(root, '.cuda', name);
  const stamp = join(folder, 'requirements.sha256');
  const wanted = createHash('sha256').update(readFileSync(requirements)).digest('hex');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return folder;
  if (process.platform !== 'linux' || process.arch !== 'x64')
    throw new Error(
      `the pinned wheels of ${name} are for Linux on x86-64, this is ${process.platform} on ${process.arch}`,
    );
  const fresh = `${folder}.new`;
  rmSync(fresh, { recursive: true, force: true });
  const install = [
    'install',
    '--quiet',
    '--disable-pip-version-check',
    '--no-deps',
    '--require-hashes',
    '--root-user-action=ignore',
  ];
  try {
    run(process.env.PYTHON ?? 'python3', ['-m', 'pip', ...install, ...TARGET, '--target', fresh, '-r', requirements]);
  } catch (error) {
    throw new Error(`${error.message}; pip needs a package index, or a folder of wheels named in PIP_FIND_LINKS`);
  }
  writeFileSync(join(fresh, 'requirements.sha256'), wanted);
  rmSync(folder, { recursive: true, force: true });
  renameSync(fresh, folder);
  return folder;
}
