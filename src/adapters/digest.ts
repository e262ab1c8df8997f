import { createHash } from 'node:crypto';

/** One file that changes what an adapter does. */
export interface DigestedFile {
  /** Relative to the adapter's directory, `/` between segments. */
  readonly path: string;
  readonly bytes: number;
  /** Hex SHA-256 of the content. */
  readonly sha256: string;
}

/**
 * The identity of an adapter: hex SHA-256 over the lines `path NUL size NUL sha256`, sorted by path, each ended by a
 * newline. Where the files lie and what the adapter is called does not enter.
 */
export function adapterDigest(files: readonly DigestedFile[]): string {
  const lines = files.map((file) => `${file.path}\0${file.bytes}\0${file.sha256}\n`);
  const hash = createHash('sha256');
  for (const line of lines.sort()) hash.update(line);
  return hash.digest('hex');
}
