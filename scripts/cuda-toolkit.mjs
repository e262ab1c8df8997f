// Finds CUDA's compiler, or makes one of wheels. `node scripts/cuda-toolkit.mjs` prints the path of nvcc.
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { output, printInterpreter } from './python-venv.mjs';
import { ensureWheels } from './wheels.mjs';

/** The provider and the pinned libraries are of this release. */
const MAJOR = '13';

function release(nvcc) {
  return /release (\d+\.\d+)/.exec(output(nvcc, ['--version']) ?? '')?.[1];
}

/** Where a machine with CUDA's toolkit has nvcc, the first named first. */
function candidates({ LORAMUX_NVCC, CUDA_HOME, CUDA_PATH, PATH = '' }) {
  const homes = [CUDA_HOME, CUDA_PATH].filter((home) => home !== undefined && home !== '');
  return [
    ...(LORAMUX_NVCC === undefined ? [] : [LORAMUX_NVCC]),
    ...homes.map((home) => join(home, 'bin', 'nvcc')),
    ...PATH.split(delimiter).map((folder) => join(folder, 'nvcc')),
    '/usr/local/cuda/bin/nvcc',
  ];
}

/**
 * Path of an nvcc of CUDA 13: from LORAMUX_NVCC, CUDA_HOME, CUDA_PATH or PATH, else from pinned wheels in `.cuda/toolkit` (270 MB
 * on disk), which are fetched when needed. Throws an Error that says what to do.
 */
export function ensureNvcc(env = process.env) {
  for (const nvcc of candidates(env)) {
    if (!existsSync(nvcc)) continue;
    const found = release(nvcc);
    if (found?.startsWith(`${MAJOR}.`)) return nvcc;
    process.stderr.write(`${nvcc} is of CUDA ${found ?? 'no known release'}, not ${MAJOR}: looking on\n`);
  }
  const nvcc = join(ensureWheels('toolkit'), 'nvidia', 'cu13', 'bin', 'nvcc');
  if (release(nvcc) === undefined) throw new Error(`${nvcc} does not run: remove .cuda/toolkit and try again`);
  return nvcc;
}

printInterpreter(import.meta.url, ensureNvcc);
