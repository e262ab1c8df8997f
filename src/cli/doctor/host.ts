import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, statfsSync } from 'node:fs';

/** What the checks ask of the machine; tests answer in its place. */
export interface Host {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly platform: string;
  readonly arch: string;
  readonly nodeVersion: string;
  exists(path: string): boolean;
  /** Null where there is none. */
  read(path: string): string | null;
  /** What a program printed; null when it is missing or failed. */
  run(program: string, args: readonly string[]): string | null;
  /** Bytes that are free where `path` lies; null when that cannot be told. */
  freeBytes(path: string): number | null;
}

/** A program that hangs, as one that waits for a broken driver, must not hang the report. */
const PROGRAM_MS = 10_000;

export const THIS_HOST: Host = {
  env: process.env,
  platform: process.platform,
  arch: process.arch,
  nodeVersion: process.versions.node,
  exists: existsSync,
  read(path) {
    try {
      return readFileSync(path, 'utf8');
    } catch {
      return null;
    }
  },
  run(program, args) {
    const done = spawnSync(program, args, { encoding: 'utf8', timeout: PROGRAM_MS });
    return done.status === 0 ? done.stdout.trim() : null;
  },
  freeBytes(path) {
    try {
      const { bavail, bsize } = statfsSync(path);
      return bavail * bsize;
    } catch {
      return null;
    }
  },
};
