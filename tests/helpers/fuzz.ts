/**
 * How many inputs a property test of hostile input gets: FUZZ_RUNS, or `otherwise`. A long run is
 * `FUZZ_RUNS=300000 node --test dist/tests/unit/adapters/hostile-config.test.js`.
 */
export function fuzzRuns(otherwise: number): number {
  const text = process.env.FUZZ_RUNS;
  if (text === undefined) return otherwise;
  const runs = Number(text);
  if (Number.isSafeInteger(runs) && runs > 0) return runs;
  throw new RangeError(`FUZZ_RUNS: expected a whole number above 0, found ${text}`);
}
