import { readFileSync } from 'node:fs';
import { availableParallelism, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import type { HostFacts } from './config.js';

/** Reads a small text file, or null where there is none. */
export type TextReader = (path: string) => string | null;

const CGROUP_ROOT = '/sys/fs/cgroup';

function readText(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
}

/** Directories of the process's cgroup (v2) from its own up to the root: a limit on any of them binds. */
function cgroupDirectories(read: TextReader): string[] {
  const own = /^0::(\/.*)$/m.exec(read('/proc/self/cgroup') ?? '')?.[1] ?? '/';
  const directories: string[] = [];
  for (let path = own; ; path = dirname(path)) {
    directories.push(join(CGROUP_ROOT, path));
    if (dirname(path) === path) return directories;
  }
}

/** CPUs that the cgroup grants (`cpu.max`: quota and period in microseconds), or infinity without a quota. */
export function cgroupCpus(read: TextReader): number {
  const quotas = cgroupDirectories(read).map((directory) => {
    const [quota, period] = (read(join(directory, 'cpu.max')) ?? '').trim().split(/\s+/).map(Number);
    const cpus = (quota ?? Number.NaN) / (period ?? Number.NaN);
    return cpus > 0 ? cpus : Number.POSITIVE_INFINITY;
  });
  return Math.min(...quotas);
}

/** Bytes that the cgroup grants (`memory.max`), or infinity without a limit. */
export function cgroupMemory(read: TextReader): number {
  const limits = cgroupDirectories(read).map((directory) => {
    const limit = Number.parseInt(read(join(directory, 'memory.max')) ?? '', 10);
    return limit > 0 ? limit : Number.POSITIVE_INFINITY;
  });
  return Math.min(...limits);
}

/** CPUs and memory that this process may use: the host's, less what its cgroups and CPU affinity withhold. */
export function readHostFacts(read: TextReader = readText): HostFacts {
  return {
    cpus: Math.max(1, Math.floor(Math.min(availableParallelism(), cgroupCpus(read)))),
    memoryBytes: Math.min(totalmem(), cgroupMemory(read)),
  };
}
