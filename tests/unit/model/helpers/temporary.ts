import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { type ErrorCode, LoramuxError } from '../../../../src/core/errors.js';

/** A directory that goes when the test ends. */
export async function temporaryDirectory(context: TestContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'loramux-model-test-'));
  context.after(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** Writes `bytes` to `name` in a fresh directory. */
export async function temporaryFile(context: TestContext, name: string, bytes: Uint8Array): Promise<string> {
  const path = join(await temporaryDirectory(context), name);
  await writeFile(path, bytes);
  return path;
}

/** Stands in for the native CRC-32: 8 hex digits that change with the content. */
export async function checksumFile(path: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(path))
    .digest('hex')
    .slice(0, 8);
}

/** Matches a LoramuxError of one code whose message holds every given part. */
export function loramuxError(code: ErrorCode, ...parts: readonly string[]): (error: unknown) => boolean {
  return (error) =>
    error instanceof LoramuxError && error.code === code && parts.every((part) => error.message.includes(part));
}
