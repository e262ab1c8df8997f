import { createHash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readFile, realpath, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';

/** What was known about a source file when it was last hashed. */
interface DigestRecord {
  readonly path: string;
  readonly bytes: number;
  readonly mtimeNs: string;
  readonly sha256: string;
}

/**
 * SHA-256 of a file, remembered under `<cacheDir>/digests/` by real path, size and modification time, so that an
 * unchanged file is hashed once. One record per file and atomic writes: processes may share the directory.
 */
export async function fileDigest(path: string, cacheDir: string): Promise<string> {
  const real = await realpath(path);
  const stats = await stat(real, { bigint: true });
  const recordPath = join(cacheDir, 'digests', `${createHash('sha256').update(real).digest('hex').slice(0, 32)}.json`);
  const known = await readRecord(recordPath);
  const mtimeNs = String(stats.mtimeNs);
  if (known?.path === real && known.bytes === Number(stats.size) && known.mtimeNs === mtimeNs) return known.sha256;

  const hash = createHash('sha256');
  await pipeline(createReadStream(real, { highWaterMark: 2 ** 20 }), hash);
  const record: DigestRecord = { path: real, bytes: Number(stats.size), mtimeNs, sha256: hash.digest('hex') };
  await mkdir(join(cacheDir, 'digests'), { recursive: true });
  const temporary = `${recordPath}.${randomUUID()}.tmp`;
  await writeFile(temporary, JSON.stringify(record));
  await rename(temporary, recordPath);
  return record.sha256;
}

async function readRecord(path: string): Promise<DigestRecord | undefined> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as DigestRecord;
  } catch {
    // Absent or damaged: the file is hashed again, which is always right.
    return undefined;
  }
}

/** The name of a cache entry: SHA-256 over format version, storage of weights and the sorted names and hashes of its sources. */
export function entryDigest(
  formatVersion: number,
  storage: string,
  files: readonly { readonly name: string; readonly sha256: string }[],
): string {
  const lines = files.map(({ name, sha256 }) => `${name}\0${sha256}\n`).sort();
  return createHash('sha256')
    .update(`loramux model ${formatVersion} ${storage}\n${lines.join('')}`)
    .digest('hex');
}
