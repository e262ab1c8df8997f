import type { SequenceEvent } from '../core/request.js';

/** Numbers of one token: request id, token id, log-probability, 1 if it was speculated. */
const FIELDS = 4;

/**
 * Events of a step, in order. Nearly all are tokens, and to clone an object for each takes longer than one array of
 * numbers for all.
 */
export interface PackedEvents {
  /** float64 [count, 4], of tokens without alternatives. */
  readonly tokens: Float64Array;
  /** All other events, each with how many of `tokens` come before it. */
  readonly others: readonly { readonly after: number; readonly event: SequenceEvent }[];
}

export function packEvents(events: readonly SequenceEvent[]): PackedEvents {
  const numbers = new Float64Array(events.length * FIELDS);
  const others: { after: number; event: SequenceEvent }[] = [];
  let count = 0;
  for (const event of events) {
    if (event.kind !== 'token' || event.top !== null) {
      others.push({ after: count, event });
      continue;
    }
    const at = count * FIELDS;
    numbers[at] = event.id;
    numbers[at + 1] = event.token;
    numbers[at + 2] = event.logprob;
    numbers[at + 3] = event.speculated ? 1 : 0;
    count += 1;
  }
  // A copy, since all of a view's buffer would be cloned.
  return { tokens: others.length === 0 ? numbers : numbers.slice(0, count * FIELDS), others };
}

/** Calls `visit` for every event that was packed, in order. */
export function visitEvents({ tokens, others }: PackedEvents, visit: (event: SequenceEvent) => void): void {
  let next = 0;
  const visitOthers = (after: number): void => {
    for (let other = others[next]; other !== undefined && other.after === after; other = others[next]) {
      next += 1;
      visit(other.event);
    }
  };
  const count = tokens.length / FIELDS;
  for (let token = 0; token < count; token += 1) {
    visitOthers(token);
    const at = token * FIELDS;
    visit({
      kind: 'token',
      id: tokens[at] as number,
      token: tokens[at + 1] as number,
      logprob: tokens[at + 2] as number,
      top: null,
      speculated: tokens[at + 3] === 1,
    });
  }
  visitOthers(count);
}
