import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cpus, loadavg, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { isMainThread, parentPort, Worker } from 'node:worker_threads';
import { packageRoot } from '../src/engine/addon.js';
import type { RunRecord } from './report/records.js';

const FLAGS = ['avx2', 'fma', 'f16c', 'avx_vnni', 'avx512f', 'avx512bw', 'avx512_vnni', 'avx512_bf16', 'amx_tile'];
/** Far more than any cache holds. */
const BUFFER_BYTES = 128 * 2 ** 20;
const PASSES = 8;

/** Facts of this machine and this checkout. */
export async function describeRun(threads: number): Promise<RunRecord> {
  const own = JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as {
    version: string;
    dependencies: Record<string, string>;
  };
  const loadAverage = loadavg().map((load) => Number(load.toFixed(2)));
  return {
    kind: 'run',
    date: new Date().toISOString(),
    commit: commit(),
    command: command(process.argv.slice(2)),
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cpuFlags: cpuFlags(),
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    kernel: `${process.platform} ${release()}`,
    threads,
    loadAverage,
    readBandwidth: { one: await readBandwidth(1), all: await readBandwidth(threads) },
    versions: {
      loramux: own.version,
      'onnxruntime-node': own.dependencies['onnxruntime-node'] ?? 'unknown',
      node: process.versions.node,
    },
  };
}

/** Options that are paths of this machine. */
const PATHS = new Set(['--python', '--genai-python', '--out']);

function command(args: readonly string[]): string {
  const told = args.filter((arg, at) => !PATHS.has(arg) && !PATHS.has(args[at - 1] ?? ''));
  return ['npm run bench', ...(told.length > 0 ? ['--', ...told] : [])].join(' ');
}

export function commit(): string {
  const git = (...args: string[]): string =>
    execFileSync('git', args, { cwd: packageRoot(), encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  try {
    return git('rev-parse', '--short', 'HEAD') + (git('status', '--porcelain') === '' ? '' : '+changes');
  } catch {
    return packedCommit();
  }
}

/** Of an unpacked pack, which is no checkout. */
function packedCommit(): string {
  try {
    const pack = readFileSync(join(packageRoot(), 'pack.json'), 'utf8');
    return (JSON.parse(pack) as { readonly commit: string }).commit.slice(0, 7);
  } catch {
    return 'unknown';
  }
}

function cpuFlags(): string[] {
  if (process.platform !== 'linux') return [];
  const found = /^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(' ') ?? [];
  return FLAGS.filter((flag) => found.includes(flag));
}

/** Bytes per second at which `threads` threads together compare equal memory: two streams that are only read. */
async function readBandwidth(threads: number): Promise<number> {
  const rates = await Promise.all(
    Array.from({ length: threads }, async () => {
      const worker = new Worker(new URL(import.meta.url));
      const rate = await new Promise<number>((resolve, reject) =>
        worker.once('message', resolve).once('error', reject),
      );
      await worker.terminate();
      return rate;
    }),
  );
  return Math.round(rates.reduce((sum, rate) => sum + rate, 0));
}

function compareInMemory(): number {
  const [a, b] = [Buffer.alloc(BUFFER_BYTES, 1), Buffer.alloc(BUFFER_BYTES, 1)];
  let best = 0;
  for (let pass = 0; pass < PASSES; pass += 1) {
    const started = performance.now();
    if (!a.equals(b)) throw new Error('equal buffers differ');
    best = Math.max(best, (2 * BUFFER_BYTES) / ((performance.now() - started) / 1_000));
  }
  return best;
}

if (!isMainThread) parentPort?.postMessage(compareInMemory());
