import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { KeyRecord } from '../../../src/auth/key-file.js';
import { hashOf, newToken } from '../../../src/auth/tokens.js';

/** A new key and its record. */
export function makeKey(
  name: string,
  scopes: readonly string[],
  expiresMs: number | null = null,
): { readonly token: string; readonly record: KeyRecord } {
  const token = newToken();
  return { token, record: { name, hash: hashOf(token)?.toString('hex') ?? '', scopes, expiresMs } };
}

/** Path of a file in a folder that goes when the test ends. */
export function temporaryFile(t: TestContext, name = 'keys'): string {
  const directory = mkdtempSync(join(tmpdir(), 'loramux-keys-'));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return join(directory, name);
}
