/**
 * Rebuilds the merge list of a SentencePiece-style BPE from token scores: every cut of a normal token into two normal
 * tokens is a merge; a higher score merges first, then the longer left piece, then the longer right piece.
 * @param scores one per token.
 * @param isNormal false for control, unknown, byte and user-defined tokens, which text never merges into.
 */
export function mergesFromScores(
  tokens: readonly string[],
  scores: Float64Array,
  isNormal: (id: number) => boolean,
): [string, string][] {
  const normal = new Set(tokens.filter((_, id) => isNormal(id)));
  const merges: { left: string; right: string; score: number }[] = [];
  tokens.forEach((token, id) => {
    if (!normal.has(token)) return;
    const score = scores[id] as number;
    let left = '';
    for (const character of token) {
      const right = token.slice(left.length);
      if (normal.has(left) && normal.has(right)) merges.push({ left, right, score });
      left += character;
    }
  });
  merges.sort(
    (a, b) => b.score - a.score || characters(b.left) - characters(a.left) || characters(b.right) - characters(a.right),
  );
  return merges.map(({ left, right }) => [left, right]);
}

function characters(text: string): number {
  return [...text].length;
}
