import { CONFIG_FILE, MAX_TEXT_FILE_BYTES, WEIGHTS_FILE } from '../adapter-directory.js';
import { MAX_CONFIG_BYTES } from '../config.js';

/** How often and how patiently a failed step of a fetch is tried again. */
export interface RetryPolicy {
  /** Tries in all, the first included. */
  readonly attempts: number;
  /** Longest wait before the second try; it doubles from try to try. */
  readonly firstDelayMs: number;
  readonly maxDelayMs: number;
}

/** Caps of one fetch or upload. */
export interface FetchLimits {
  /** All files together, skipped ones included; no single file can be larger. */
  readonly maxBytes: number;
  /** Files or archive members looked at. */
  readonly maxFiles: number;
  /** From the first request to the last byte. */
  readonly totalMs: number;
  /** Without a byte. */
  readonly stallMs: number;
  readonly retry: RetryPolicy;
}

export const DEFAULT_RETRY: RetryPolicy = { attempts: 5, firstDelayMs: 250, maxDelayMs: 10_000 };
export const DEFAULT_STALL_MS = 30_000;
export const DEFAULT_MAX_FILES = 1_000;

/** Longest that the file called `name` may be. */
export function maxFileBytes(name: string, { maxBytes }: FetchLimits): number {
  if (name === WEIGHTS_FILE) return maxBytes;
  return Math.min(maxBytes, name === CONFIG_FILE ? MAX_CONFIG_BYTES : MAX_TEXT_FILE_BYTES);
}
