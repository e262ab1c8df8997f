import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { PromptLookup } from '../../../src/scheduler/prompt-lookup.js';

/** Tokens that grow. */
class Text {
  constructor(readonly ids: number[]) {}

  get length(): number {
    return this.ids.length;
  }

  tokenAt(position: number): number {
    return this.ids[position] as number;
  }
}

/** The next `count` guesses; empty when there is none. */
function guesses(lookup: PromptLookup, text: Text, count: number): number[] {
  const drafts: number[] = [];
  if (!lookup.follow(text)) return drafts;
  while (drafts.length < count) drafts.push(lookup.guess(text, drafts));
  return drafts;
}

/** What followed the latest earlier occurrence of the last three tokens, by looking at every place. */
function slowGuess(ids: readonly number[]): number | undefined {
  const last = ids.slice(-3).join();
  for (let end = ids.length - 1; end >= 3; end -= 1) {
    if (ids.slice(end - 3, end).join() === last) return ids[end];
  }
  return undefined;
}

test('three tokens seen before are followed by what followed them', () => {
  const text = new Text([7, 1, 2, 3, 4, 5, 9, 1, 2, 3]);
  assert.deepEqual(guesses(new PromptLookup(text.length), text, 4), [4, 5, 9, 1]);
});

test('the latest occurrence counts, and two tokens are too few', () => {
  const twice = new Text([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3]);
  assert.deepEqual(guesses(new PromptLookup(0), twice, 1), [5]);
  assert.deepEqual(guesses(new PromptLookup(0), new Text([9, 2, 3, 4, 2, 3]), 1), []);
  assert.deepEqual(guesses(new PromptLookup(0), new Text([]), 1), []);
});

test('text that repeats itself goes on past its own end', () => {
  const text = new Text([1, 2, 1, 2, 1]);
  assert.deepEqual(guesses(new PromptLookup(0), text, 7), [2, 1, 2, 1, 2, 1, 2]);
  assert.deepEqual(guesses(new PromptLookup(0), new Text([6, 6, 6, 6]), 3), [6, 6, 6]);
});

test('confidence follows guesses about the output, drafted or not, and forgets', () => {
  const text = new Text([1, 2, 3, 4, 5, 1, 2, 3, 9, 1, 2, 3]);
  const lookup = new PromptLookup(text.length);
  lookup.follow(text);
  assert.equal(lookup.confidence, 0.5, 'a prompt says nothing');
  text.ids.push(9);
  lookup.follow(text);
  const once = lookup.confidence;
  assert.ok(once > 0.5);
  for (const id of [8, 1, 2, 3, 7, 1, 2, 3, 6]) {
    text.ids.push(id);
    lookup.follow(text);
  }
  assert.ok(lookup.confidence < 0.5, 'three wrong ones outweigh a right one');
  for (let turn = 0; turn < 60; turn += 1) text.ids.push(4, 4);
  lookup.follow(text);
  assert.ok(lookup.confidence > 0.8, 'what was long ago counts little');
});

test('a guess is what looking at every place would find, however tokens arrive', () => {
  fc.assert(
    fc.property(fc.array(fc.nat(3), { minLength: 1, maxLength: 60 }), fc.array(fc.nat(9)), (ids, pauses) => {
      const text = new Text([]);
      const lookup = new PromptLookup(0);
      for (const [index, id] of ids.entries()) {
        const followed = text.length >= 3 && lookup.follow(text) ? lookup.guess(text, []) : undefined;
        text.ids.push(id);
        if (pauses.includes(index % 10)) continue;
        const guess = lookup.follow(text) ? lookup.guess(text, []) : undefined;
        // A guess that was right is kept up; any other is the latest one.
        if (followed !== id) assert.equal(guess, slowGuess(text.ids));
        else assert.notEqual(guess, undefined);
      }
    }),
    { numRuns: 500 },
  );
});
