import { dirname } from 'node:path';
import { toLoramuxError } from '../../core/errors.js';
import { type Finding, failed, missing, ok } from './finding.js';
import type { Host } from './host.js';

/** Oldest Node that runs the server, as package.json's `engines` says. */
const NODE = [20, 19] as const;
/** A converted model of a billion float32 weights takes four times this. */
const LEAST_FREE_BYTES = 2 ** 30;
const GIB = 2 ** 30;

/** What the checks of the server are told. */
export interface ServerFacts {
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly cacheDir: string;
  /** Loads the addon: its kernel set and the version of ONNX Runtime behind it. */
  readonly loadAddon: () => { readonly instructionSet: string; readonly runtime: string };
}

/** Everything that serving on the CPU needs, and what only some starts need. */
export function serverFindings(host: Host, facts: ServerFacts): Finding[] {
  return [node(host), cpu(host, facts), memory(facts), addon(facts), cache(host, facts), ...tools(host)];
}

function node({ nodeVersion }: Host): Finding {
  const [major = 0, minor = 0] = nodeVersion.split('.').map(Number);
  const [leastMajor, leastMinor] = NODE;
  if (major > leastMajor || (major === leastMajor && minor >= leastMinor)) return ok('node', nodeVersion);
  return failed('node', nodeVersion, `install Node ${leastMajor}.${leastMinor} or newer`);
}

function cpu(host: Host, { cpus }: ServerFacts): Finding {
  const model = /^model name\s*:\s*(.+)$/m.exec(host.read('/proc/cpuinfo') ?? '')?.[1];
  return ok('cpu', `${model ?? host.arch}, ${cpus} for this process`);
}

function memory({ memoryBytes }: ServerFacts): Finding {
  return ok('memory', `${gibibytes(memoryBytes)} for this process`);
}

function addon({ loadAddon }: ServerFacts): Finding {
  try {
    const { instructionSet, runtime } = loadAddon();
    return ok('addon', `${instructionSet} kernels on ONNX Runtime ${runtime}`);
  } catch (error) {
    return failed('addon', toLoramuxError(error).message, 'npm run build:native');
  }
}

function cache(host: Host, { cacheDir }: ServerFacts): Finding {
  let existing = cacheDir;
  while (!host.exists(existing) && dirname(existing) !== existing) existing = dirname(existing);
  const free = host.freeBytes(existing);
  if (free === null) return failed('cache', cacheDir, 'choose another directory with --cache-dir');
  const found = `${cacheDir}, ${gibibytes(free)} free`;
  if (free >= LEAST_FREE_BYTES) return ok('cache', found);
  return missing('cache', found, 'make room for a converted model, or choose another disk with --cache-dir');
}

function tools(host: Host): Finding[] {
  const tool = (name: string, args: readonly string[], use: string, advice: string): Finding => {
    const version = host.run(name, args);
    return version === null ? missing(name, `${use}: not found`, advice) : ok(name, `${version} (${use})`);
  };
  return [
    tool('python3', ['--version'], 'fetches the demo model', 'install Python 3 with pip, or serve a model of your own'),
    tool('cargo', ['--version'], 'builds the addon', 'install Rust; an addon that is built already needs none'),
  ];
}

function gibibytes(bytes: number): string {
  return `${(bytes / GIB).toFixed(1)} GiB`;
}
