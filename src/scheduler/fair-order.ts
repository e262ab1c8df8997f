import type { Sequence } from './sequence.js';

/** Tokens that a flow may take with each of its turns. */
export const QUANTUM = 512;

/** Requests of one adapter, or of one list of adapters, or of the base. */
interface Flow {
  readonly key: string;
  /** In order of arrival. Never empty. */
  readonly waiting: Sequence[];
}

/** What of a flow's turns is not used up yet. */
interface Credit {
  readonly flow: Flow;
  /** Place in `flow.waiting` of the request whose turn it is. */
  next: number;
  deficit: number;
}

/** How much of a flow's share a request takes: its prompt, and all that it may generate. */
function costOf({ request }: Sequence): number {
  return request.promptIds.length + request.maxNewTokens;
}

/** Whose turn it is. */
class Round {
  readonly credits: Credit[];
  turn: number;
  /** True once the flow whose turn it is has got its quantum. */
  granted: boolean;

  constructor(credits: Credit[] = [], turn = 0, granted = false) {
    this.credits = credits;
    this.turn = turn;
    this.granted = granted;
  }

  /** Goes on, granting each flow that it passes its quantum, until one is `ready`. There is one that will be. */
  advance(ready: (credit: Credit) => boolean): Credit {
    for (;;) {
      const credit = this.credits[this.turn] as Credit;
      if (!this.granted) credit.deficit += QUANTUM;
      this.granted = true;
      if (ready(credit)) return credit;
      this.turn = (this.turn + 1) % this.credits.length;
      this.granted = false;
    }
  }

  /** Takes a flow out; what it had left is lost. */
  drop(credit: Credit): void {
    const place = this.credits.indexOf(credit);
    this.credits.splice(place, 1);
    if (place === this.turn) this.granted = false;
    if (place < this.turn) this.turn -= 1;
    if (this.turn >= this.credits.length) this.turn = 0;
  }
}

/**
 * Deficit round robin over flows: in each of its turns a flow may take 512 tokens more, and its next request goes when
 * that has added up to the request's prompt and most new tokens. Within a flow requests go in order of arrival.
 *
 * Bound: once a request of c tokens is the first of its flow, at most (F − 1) · (C + c + 512) + 512 tokens of other
 * flows go before it, where F flows wait and no request is larger than C. Source: Shreedhar and Varghese, Efficient
 * Fair Queuing Using Deficit Round Robin, 1995.
 */
export class FairOrder {
  readonly #round = new Round();
  readonly #credits = new Map<string, Credit>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** Adds a request to its flow, at the place that its arrival earned. */
  insert(sequence: Sequence): void {
    this.#size += 1;
    const key = sequence.request.adapter;
    const credit = this.#credits.get(key);
    if (credit === undefined) {
      this.#begin({ flow: { key, waiting: [sequence] }, next: 0, deficit: 0 });
      return;
    }
    const { waiting } = credit.flow;
    const place = waiting.findLastIndex(({ arrival }) => arrival <= sequence.arrival) + 1;
    waiting.splice(place, 0, sequence);
  }

  /** The order in which requests would go if all went now. Changes nothing; time per request O(flows) at most. */
  *order(): Generator<Sequence> {
    const { credits, turn, granted } = this.#round;
    const round = new Round(
      credits.map((credit) => ({ ...credit })),
      turn,
      granted,
    );
    while (round.credits.length > 0) {
      const credit = round.advance(({ flow, next, deficit }) => costOf(flow.waiting[next] as Sequence) <= deficit);
      const sequence = credit.flow.waiting[credit.next] as Sequence;
      credit.deficit -= costOf(sequence);
      credit.next += 1;
      if (credit.next === credit.flow.waiting.length) round.drop(credit);
      yield sequence;
    }
  }

  /** A request goes: its flow pays for it. False when it is not here. */
  take(sequence: Sequence): boolean {
    const credit = this.#creditOf(sequence);
    if (credit === null) return false;
    const cost = costOf(sequence);
    this.#round.advance((current) => current === credit && current.deficit >= cost);
    credit.deficit -= cost;
    this.#remove(credit, sequence);
    return true;
  }

  /** A request ended without having gone. False when it is not here. */
  remove(sequence: Sequence): boolean {
    const credit = this.#creditOf(sequence);
    if (credit !== null) this.#remove(credit, sequence);
    return credit !== null;
  }

  #creditOf(sequence: Sequence): Credit | null {
    const credit = this.#credits.get(sequence.request.adapter);
    return credit?.flow.waiting.includes(sequence) === true ? credit : null;
  }

  /** A flow begins to wait: it is the last to get its turn. */
  #begin(credit: Credit): void {
    const { credits, turn } = this.#round;
    this.#credits.set(credit.flow.key, credit);
    credits.splice(turn, 0, credit);
    if (credits.length > 1) this.#round.turn += 1;
  }

  #remove(credit: Credit, sequence: Sequence): void {
    const { flow } = credit;
    flow.waiting.splice(flow.waiting.indexOf(sequence), 1);
    this.#size -= 1;
    if (flow.waiting.length > 0) return;
    this.#credits.delete(flow.key);
    this.#round.drop(credit);
  }
}
