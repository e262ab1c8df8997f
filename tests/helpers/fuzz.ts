/**
 * How many inputs a property test of hostile input gets: FUZZ_RUNS, or `otherwise`. `npm run fuzz` is a long run.
 */
export function fuzzRuns(otherwise: number): number {
  const text = process.env.FUZZ_RUNS;
  if (text === undefined) return otherwise;
  const runs = Number(text);
  if (Number.isSafeInteger(runs) && runs > 0) return runs;
  throw new RangeError(`FUZZ_RUNS: expected a whole number above 0, found ${text}`);
}
