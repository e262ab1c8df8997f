// A pack of scripts/pack-gpu.mjs, unpacked: all is built, and there is no compiler, npm or network to ask for.
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './steps.mjs';

/** Of a pack: facts of what was packed. */
export const PACK_FILE = 'pack.json';

/** Where a pack has the kernels' programs, compiled for GPUs. */
export const PROGRAMS = join('native', 'cuda', 'programs');

export function isPacked() {
  return existsSync(join(root, PACK_FILE));
}

/** Paths of a pack's programs of a kind, `test` or `bench`. */
export function packedPrograms(kind) {
  const folder = join(root, PROGRAMS);
  const names = readdirSync(folder).filter((name) => name.startsWith(`${kind}_`));
  return names.sort().map((name) => join(folder, name));
}
