/**
 * Where `sequence` (not empty) begins for the last time in `tokens`, or −1. An activated adapter (aLoRA) applies from
 * there on. Time: O(tokens · sequence).
 */
export function lastOccurrence(tokens: Uint32Array, sequence: readonly number[]): number {
  for (let start = tokens.length - sequence.length; start >= 0; start -= 1) {
    if (sequence.every((token, at) => tokens[start + at] === token)) return start;
  }
  return -1;
}
