import { type ChildEnd, runChild } from './child.js';

/** Runs the built `loramux` with these arguments to its end, without the tester's own `LORAMUX_…` variables. */
export function runCommand(...args: readonly string[]): Promise<ChildEnd> {
  const own = Object.keys(process.env).filter((name) => name.startsWith('LORAMUX_'));
  const env = Object.fromEntries(own.map((name) => [name, undefined]));
  return runChild(new URL('../../src/main.js', import.meta.url), { args, env });
}
