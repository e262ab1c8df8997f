import type { AdapterSource, FileSource } from '../core/adapter-source.js';
import { type AdapterRoots, stamped } from './adapter-directory.js';
import type { LocalCopy } from './sources/remote-sources.js';

/** File systems count time in steps of up to this: files younger may change once more without showing it. */
const SETTLED_MS = 2_000;

/**
 * A text that changes when the files of `source` do, found without reading them; null when only reading them can tell.
 * `copies` are those of its files that were fetched, in order.
 */
export async function fingerprintOf(
  source: AdapterSource,
  copies: readonly (LocalCopy | null)[],
  roots: AdapterRoots,
  now: () => number,
): Promise<string | null> {
  const files = filesOf(source);
  const prints = await Promise.all(files.map((file, at) => copies[at]?.digest ?? ofDirectory(file, roots, now)));
  return prints.includes(null) ? null : prints.join('\n');
}

/** The sources whose files a source is made of. */
export function filesOf(source: AdapterSource): readonly FileSource[] {
  return source.type === 'merge' ? source.members.map((member) => member.source) : [source];
}

/** Null where there is no such directory, or none that may be read: the load says why. */
async function ofDirectory({ location }: FileSource, roots: AdapterRoots, now: () => number): Promise<string | null> {
  const directory = await roots.resolve(location).catch(() => null);
  if (directory === null) return null;
  const { stamp, changedMs } = await stamped(directory);
  return now() - changedMs < SETTLED_MS ? null : `${directory} ${stamp}`;
}
