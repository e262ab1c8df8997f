import type { BenchRecord, RunRecord, ServingRecord, ThroughputRecord } from './records.js';
import { median } from './statistics.js';

/** A median with the least and greatest of what it is of. */
export interface Spread {
  readonly value: number;
  readonly low: number;
  readonly high: number;
  readonly count: number;
}

/** What one side of a ratio is: a contender at a cell. */
export interface Side {
  readonly contender: string;
  readonly cell: string;
}

export function spreadOf(values: readonly number[]): Spread | null {
  if (values.length === 0) return null;
  return { value: median(values), low: Math.min(...values), high: Math.max(...values), count: values.length };
}

/** Load beyond this share of the cores is noise. */
const QUIET_SHARE = 0.25;

export function isNoisy({ loadAverage, cores }: RunRecord): boolean {
  return (loadAverage[0] ?? 0) > cores * QUIET_SHARE;
}

/** Questions that the page asks of the records. Null answers: it was not measured. */
export class Results {
  readonly runs: readonly RunRecord[];
  readonly #throughput = new Map<string, ThroughputRecord[]>();
  readonly #serving = new Map<string, ServingRecord[]>();
  /** Which run a record is of: each begins with its own. Rounds are numbered anew in each. */
  readonly #run = new Map<BenchRecord, number>();

  constructor(readonly records: readonly BenchRecord[]) {
    this.runs = this.of('run');
    let run = 0;
    for (const record of records) this.#run.set(record, record.kind === 'run' ? ++run : run);
    for (const record of this.of('throughput')) push(this.#throughput, `${record.contender}\n${record.cell}`, record);
    for (const record of this.of('serving')) push(this.#serving, `${record.scenario}\n${record.variant}`, record);
  }

  of<Kind extends BenchRecord['kind']>(kind: Kind): Extract<BenchRecord, { kind: Kind }>[] {
    return this.records.filter((record): record is Extract<BenchRecord, { kind: Kind }> => record.kind === kind);
  }

  /** Whether other programs kept the machine busy when a run began: then nothing can be judged. */
  get noisy(): boolean {
    return this.runs.some(isNoisy);
  }

  /** Names of those that took part, in the order of the files; `peers` or our own. */
  contenders(peers: boolean): string[] {
    const found = this.of('contender').filter(({ peer }) => peer === peers);
    return [...new Set(found.map(({ contender }) => contender))];
  }

  timings({ contender, cell }: Side): readonly ThroughputRecord[] {
    return this.#throughput.get(`${contender}\n${cell}`) ?? [];
  }

  /** Tokens per second over all rounds. */
  rate(side: Side): Spread | null {
    return spreadOf(this.timings(side).map(({ tokens, seconds }) => tokens / seconds));
  }

  /** The contender of those named that is fastest at a cell. */
  fastest(contenders: readonly string[], cell: string): string | null {
    let best: { contender: string; rate: number } | null = null;
    for (const contender of contenders) {
      const rate = this.rate({ contender, cell })?.value;
      if (rate !== undefined && (best === null || rate > best.rate)) best = { contender, rate };
    }
    return best?.contender ?? null;
  }

  /** Speed of one side over the other's: within each round and repeat that both have, else within each round. */
  ratio(over: Side, under: Side): Spread | null {
    const repeats = this.#ratiosWithin(over, under, ({ round, repeat }) => `${round} ${repeat}`);
    const sameCount = this.timings(over).length === this.timings(under).length;
    return spreadOf(sameCount ? repeats : this.#ratiosWithin(over, under, ({ round }) => `${round}`));
  }

  #ratiosWithin(over: Side, under: Side, key: (record: ThroughputRecord) => string): number[] {
    const ratesOf = (side: Side): Map<string, number[]> => {
      const rates = new Map<string, number[]>();
      for (const record of this.timings(side))
        push(rates, `${this.#run.get(record)} ${key(record)}`, record.tokens / record.seconds);
      return rates;
    };
    const below = ratesOf(under);
    return [...ratesOf(over)].flatMap(([when, rates]) => {
      const others = below.get(when);
      return others === undefined ? [] : [median(rates) / median(others)];
    });
  }

  /** One value of a scenario of the server, over all its windows. */
  serving(scenario: string, variant: string, value: string): Spread | null {
    return spreadOf(this.windows(scenario, variant).flatMap(({ values }) => values[value] ?? []));
  }

  windows(scenario: string, variant: string): readonly ServingRecord[] {
    return this.#serving.get(`${scenario}\n${variant}`) ?? [];
  }

  /** A value of each window of one variant over the same of another's window of the same round. */
  servingRatio(scenario: string, over: string, under: string, value: string): Spread | null {
    const when = (record: ServingRecord): string => `${this.#run.get(record)} ${record.round}`;
    const below = new Map(this.windows(scenario, under).map((record) => [when(record), record.values[value]]));
    const ratios = this.windows(scenario, over).flatMap((record) => {
      const [a, b] = [record.values[value], below.get(when(record))];
      return a === undefined || b === undefined ? [] : [a / b];
    });
    return spreadOf(ratios);
  }

  /** Share of rows whose greedy token after the prompt is the reference's, over all cells that both ran. */
  agreement(contender: string, reference: string): { same: number; rows: number } {
    let [same, rows] = [0, 0];
    const cells = new Set(this.of('throughput').map(({ cell }) => cell));
    for (const cell of cells) {
      const ours = this.timings({ contender, cell })[0]?.first;
      const theirs = this.timings({ contender: reference, cell })[0]?.first;
      if (ours === undefined || theirs === undefined) continue;
      rows += ours.length;
      same += ours.filter((token, row) => token === theirs[row]).length;
    }
    return { same, rows };
  }
}

function push<Value>(map: Map<string, Value[]>, key: string, value: Value): void {
  const list = map.get(key);
  if (list === undefined) map.set(key, [value]);
  else list.push(value);
}
