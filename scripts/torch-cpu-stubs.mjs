import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const run = (tool, args) => execFileSync(tool, args, { encoding: 'utf8', maxBuffer: 1 << 30 });

/** Sonames that a library asks the loader for. */
function neededLibraries(library) {
  return [...run('readelf', ['-dW', library]).matchAll(/\(NEEDED\).*\[(.+)\]/g)].map((match) => match[1]);
}

/** Symbol version → soname it is expected in, as the library's version table says. */
function versionOwners(library) {
  const owners = new Map();
  let soname = '';
  for (const line of run('readelf', ['-VW', library]).split('\n')) {
    soname = /File: (\S+)/.exec(line)?.[1] ?? soname;
    const version = /Name: (\S+) {2}Flags/.exec(line)?.[1];
    if (version !== undefined) owners.set(version, soname);
  }
  return owners;
}

/** Names that a library defines, without versions. */
function definedSymbols(library) {
  const lines = run('nm', ['-D', '--defined-only', '--format=just-symbols', library]).split('\n');
  return lines.map((line) => line.split('@')[0]);
}

/** One stub library: every function traps, so a call that should never happen is a crash and not a wrong number. */
function compileStub(directory, soname, symbols, version) {
  const work = mkdtempSync(join(tmpdir(), 'loramux-stub-'));
  const source = join(work, 'stub.c');
  writeFileSync(source, [...symbols].map((name) => `void ${name}(void) { __builtin_trap(); }\n`).join(''));
  const script = join(work, 'versions.map');
  writeFileSync(script, version === undefined ? '{ global: *; };' : `${version} { global: *; };`);
  run('cc', [
    ...['-shared', '-fPIC', '-w', `-Wl,-soname,${soname}`, `-Wl,--version-script=${script}`],
    ...['-o', join(directory, soname), source],
  ]);
  rmSync(work, { recursive: true });
}

/**
 * Lets torch's Linux wheel, which is linked against some 3 GB of CUDA libraries, load for CPU work without them:
 * each library that is not installed becomes a stub in `nvidia/cu13/lib`, where torch's own search path looks.
 * Needs `cc`, `nm` and `readelf`; throws when one is missing.
 */
export function stubCudaLibraries(sitePackages) {
  const torchLibraries = join(sitePackages, 'torch', 'lib');
  const target = join(sitePackages, 'nvidia', 'cu13', 'lib');
  mkdirSync(target, { recursive: true });
  // libcaffe2_nvrtc is opened only to talk to a GPU's driver, which must not be shadowed by a stub.
  const files = readdirSync(torchLibraries).filter((name) => /\.so(\.\d+)*$/.test(name) && !/nvrtc/.test(name));
  const installed = readdirSync(target).filter((name) => name.includes('.so'));
  const present = new Set([...files, ...installed]);

  const missing = new Map();
  const loose = new Set();
  const provided = new Set([
    ...files.flatMap((name) => definedSymbols(join(torchLibraries, name))),
    ...installed.flatMap((name) => definedSymbols(join(target, name))),
  ]);
  for (const name of files) {
    const library = join(torchLibraries, name);
    for (const soname of neededLibraries(library)) {
      if (/^lib(cu|nv|nccl)/.test(soname) && !present.has(soname) && !missing.has(soname))
        missing.set(soname, { symbols: new Set(), version: undefined });
    }
    const owners = versionOwners(library);
    for (const line of run('nm', ['-D', '--undefined-only', '--format=just-symbols', library]).split('\n')) {
      const [symbol, version] = line.split('@');
      const owner = missing.get(owners.get(version));
      if (owner !== undefined) {
        owner.symbols.add(symbol);
        owner.version = version;
      } else if (version === undefined && /^(cu|nv|nccl)/.test(symbol) && !provided.has(symbol)) {
        loose.add(symbol);
      }
    }
  }
  for (const [soname, stub] of missing) {
    // NOTE: a symbol without a version may come from any unversioned library, and nothing says which: all get it.
    compileStub(target, soname, stub.version === undefined ? loose : stub.symbols, stub.version);
  }
}
