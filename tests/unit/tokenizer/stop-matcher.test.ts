import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { StopMatcher } from '../../../src/tokenizer/stop-matcher.js';

/** Few letters, so that stop strings and their beginnings are everywhere. */
const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 40 });
const stops = fc.array(fc.string({ unit: fc.constantFrom('a', 'b', 'c'), minLength: 1, maxLength: 5 }), {
  maxLength: 4,
});

/** Where the first stop string ends, found the slow way; ties go to the longest. */
function naive(text: string, stopStrings: readonly string[], keep: boolean): { text: string; stop: string | null } {
  for (let end = 0; end <= text.length; end += 1) {
    const ending = stopStrings.filter((stop) => text.slice(0, end).endsWith(stop));
    const [stop] = ending.sort((a, b) => b.length - a.length);
    if (stop !== undefined) return { text: text.slice(0, keep ? end : end - stop.length), stop };
  }
  return { text, stop: null };
}

/** Feeds `text` in pieces that end at `cuts`. */
function run(matcher: StopMatcher, pieces: readonly string[]): { text: string; stop: string | null } {
  let text = '';
  for (const piece of pieces) {
    const result = matcher.push(piece);
    text += result.text;
    if (result.stop !== null) return { text, stop: result.stop };
  }
  return { text: text + matcher.flush(), stop: null };
}

test('finds what a search over the whole text finds, however the text is cut', () => {
  fc.assert(
    fc.property(fc.array(letters, { maxLength: 8 }), stops, fc.boolean(), (pieces, stopStrings, keep) => {
      const found = run(new StopMatcher(stopStrings, keep), pieces);
      assert.deepEqual(found, naive(pieces.join(''), stopStrings, keep));
    }),
    { numRuns: 2_000 },
  );
});

test('holds back exactly the longest end that may begin a stop string', () => {
  fc.assert(
    fc.property(fc.array(letters, { maxLength: 8 }), stops, (pieces, stopStrings) => {
      const matcher = new StopMatcher(stopStrings, false);
      let seen = '';
      let released = '';
      for (const piece of pieces) {
        const { text, stop } = matcher.push(piece);
        if (stop !== null) return;
        seen += piece;
        released += text;
        const ends = stopStrings.flatMap((candidate) =>
          Array.from({ length: candidate.length - 1 }, (_, at) => candidate.slice(0, at + 1)),
        );
        const longest = Math.max(0, ...ends.filter((end) => seen.endsWith(end)).map((end) => end.length));
        assert.equal(seen.length - released.length, longest);
      }
    }),
    { numRuns: 2_000 },
  );
});

test('a kept stop string holds nothing back', () => {
  const matcher = new StopMatcher(['END'], true);
  assert.deepEqual(matcher.push('xE'), { text: 'xE', stop: null });
  assert.deepEqual(matcher.push('ND of'), { text: 'ND', stop: 'END' });
});

test('a long stop string costs no more than the text', () => {
  const matcher = new StopMatcher([`${'a'.repeat(1_000_000)}b`], false);
  const started = performance.now();
  for (let piece = 0; piece < 2_000; piece += 1) matcher.push('a'.repeat(100));
  // Quadratic search would take minutes.
  assert.ok(performance.now() - started < 5_000);
});
