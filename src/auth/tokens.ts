import { createHash, randomBytes } from 'node:crypto';

/** A key as clients send it: a prefix that scanners for leaked secrets can look for, and 256 random bits. */
const TOKEN = /^lmx_[A-Za-z0-9_-]{43}$/;

export function newToken(): string {
  return `lmx_${randomBytes(32).toString('base64url')}`;
}

/**
 * What is kept of a key: SHA-256 of its text, 32 bytes, or null for what no key looks like.
 *
 * Salts and slow hashes protect secrets that can be guessed. Nobody guesses 256 random bits, whatever a guess costs,
 * and no two keys are equal, so that one fast hash protects as much as they would; it is affordable for every request
 * and lets a key be looked up instead of tried against each line. It is safe only because `newToken` alone makes keys:
 * anything of another form, such as a password whose hash somebody wrote into the file, is refused here.
 */
export function hashOf(token: string): Buffer | null {
  return TOKEN.test(token) ? createHash('sha256').update(token).digest() : null;
}
