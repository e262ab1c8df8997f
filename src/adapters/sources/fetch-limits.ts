import type { FetchLimits, RetryPolicy } from '../../core/adapter-fetch.js';
import { CONFIG_FILE, MAX_TEXT_FILE_BYTES, WEIGHTS_FILE } from '../adapter-directory.js';
import { MAX_CONFIG_BYTES } from '../config.js';

export const DEFAULT_RETRY: RetryPolicy = { attempts: 5, firstDelayMs: 250, maxDelayMs: 10_000 };
export const DEFAULT_STALL_MS = 30_000;
export const DEFAULT_MAX_FILES = 1_000;

/** Longest that the file called `name` may be. */
export function maxFileBytes(name: string, { maxBytes }: FetchLimits): number {
  if (name === WEIGHTS_FILE) return maxBytes;
  return Math.min(maxBytes, name === CONFIG_FILE ? MAX_CONFIG_BYTES : MAX_TEXT_FILE_BYTES);
}
