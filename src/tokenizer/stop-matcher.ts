/** Text released by one push: final, and ending with the stop string when one matched (if it is kept). */
export interface StopResult {
  readonly text: string;
  /** The stop string that ended the text, or null. Nothing may be pushed after a match. */
  readonly stop: string | null;
}

interface Pattern {
  readonly text: string;
  /** [length]: for each prefix, the length of its longest proper border. */
  readonly borders: Uint32Array;
  /** Characters of the pattern that the text seen so far ends with. */
  matched: number;
}

function bordersOf(pattern: string): Uint32Array {
  const borders = new Uint32Array(pattern.length);
  let border = 0;
  for (let at = 1; at < pattern.length; at += 1) {
    while (border > 0 && pattern[at] !== pattern[border]) border = borders[border - 1] ?? 0;
    if (pattern[at] === pattern[border]) border += 1;
    borders[at] = border;
  }
  return borders;
}

/**
 * Finds the first place where any of several stop strings ends in a text that arrives in pieces, wherever the
 * pieces are cut, in time linear in the text for each string (Knuth, Morris and Pratt 1977). With `keep` the stop
 * string is part of the result, so nothing needs to be held back; without it, exactly the longest end of the text
 * that may begin a stop string is held back. When two end at the same place the longer one counts.
 */
export class StopMatcher {
  readonly #patterns: readonly Pattern[];
  readonly #keep: boolean;
  #held = '';

  /** `stops` holds no empty string. */
  constructor(stops: readonly string[], keep: boolean) {
    const longestFirst = [...stops].sort((a, b) => b.length - a.length);
    this.#patterns = longestFirst.map((text) => ({ text, borders: bordersOf(text), matched: 0 }));
    this.#keep = keep;
  }

  push(piece: string): StopResult {
    if (this.#patterns.length === 0) return { text: piece, stop: null };
    const text = this.#held + piece;
    for (let at = 0; at < piece.length; at += 1) {
      const stop = this.#advance(piece[at] ?? '');
      if (stop === null) continue;
      const end = this.#held.length + at + 1;
      this.#held = '';
      return { text: text.slice(0, this.#keep ? end : end - stop.length), stop };
    }
    const hold = this.#keep ? 0 : Math.max(...this.#patterns.map((pattern) => pattern.matched));
    this.#held = text.slice(text.length - hold);
    return { text: text.slice(0, text.length - hold), stop: null };
  }

  /** Text still held back when the sequence ends without a match. */
  flush(): string {
    const held = this.#held;
    this.#held = '';
    return held;
  }

  #advance(character: string): string | null {
    let found: string | null = null;
    for (const pattern of this.#patterns) {
      while (pattern.matched > 0 && pattern.text[pattern.matched] !== character) {
        pattern.matched = pattern.borders[pattern.matched - 1] ?? 0;
      }
      if (pattern.text[pattern.matched] === character) pattern.matched += 1;
      if (pattern.matched === pattern.text.length) found ??= pattern.text;
    }
    return found;
  }
}
