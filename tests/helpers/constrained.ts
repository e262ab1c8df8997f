import type { Constraint } from '../../src/core/constraint.js';
import { BASE_NAME } from '../../src/core/names.js';
import { type GenerateRequest, GREEDY_SAMPLING } from '../../src/core/request.js';
import type { DirectEngine } from './direct-engine.js';

/** Ends a text of the synthetic models. */
export const END_ID = 2;

/**
 * A request whose tokens are drawn nearly evenly from what its constraint allows: random weights, and hot. White space
 * is made unlikely, since between JSON tokens most of the bytes allowed are that.
 */
export function constrained(
  engine: DirectEngine,
  constraint: Constraint | null,
  seed: number,
  maxNewTokens = 240,
): GenerateRequest {
  const space = [' ', '\n', '\t', '\r'].map((text) => idOf(engine, text));
  return {
    ...engine.request(BASE_NAME, [7, 30, 99, 30], maxNewTokens, [END_ID]),
    constraint,
    sampling: {
      ...GREEDY_SAMPLING,
      greedy: false,
      temperature: 30,
      seed: BigInt(seed),
      logitBias: new Map(space.map((id) => [id, -30])),
    },
  };
}

/** Of one character that is one token. */
function idOf({ tokenizer }: DirectEngine, text: string): number {
  for (let id = 0; id < tokenizer.vocabSize(); id += 1) {
    if (tokenizer.decode(Uint32Array.of(id), false) === text) return id;
  }
  throw new RangeError(`no token is ${JSON.stringify(text)}`);
}

/** What tokens say, or null when they did not come to an end. */
export function endedText(engine: DirectEngine, tokens: readonly number[]): string | null {
  if (tokens.at(-1) !== END_ID) return null;
  return engine.tokenizer.decode(Uint32Array.from(tokens.slice(0, -1)), false);
}
