import type { AdapterInfo } from '../core/adapter.js';
import type { ErrorCode } from '../core/errors.js';
import type { GenerationSummary } from '../generation/observer.js';
import { AdapterLabels, OTHER_LABEL } from './adapter-labels.js';
import type { Instruments } from './families.js';

const MAX_LABELS = 32;
const STICKY_MS = 3_600_000;
const MAX_TRACKED = 4096;

const CLIENT_ERRORS: ReadonlySet<ErrorCode> = new Set([
  'ERR_ABORTED',
  'ERR_DEADLINE',
  'ERR_ADAPTER_NOT_FOUND',
  'ERR_VALIDATION',
]);
const OUTCOMES = ['ok', 'client', 'server'] as const;

function outcomeOf(code: ErrorCode | null): (typeof OUTCOMES)[number] {
  if (code === null) return 'ok';
  return CLIENT_ERRORS.has(code) ? 'client' : 'server';
}

/** Counters by adapter, with bounded labels. */
export class AdapterMetrics {
  readonly #instruments: Instruments;
  readonly #labels: AdapterLabels;
  /** Codes seen, so that the series of a dropped label can be removed. */
  readonly #codes = new Set<ErrorCode>();

  constructor(instruments: Instruments, now: () => number) {
    this.#instruments = instruments;
    const onDrop = (label: string): void => this.#drop(label);
    this.#labels = new AdapterLabels({ max: MAX_LABELS, stickyMs: STICKY_MS, maxTracked: MAX_TRACKED, now, onDrop });
  }

  ended({ servedBy, code, promptTokens, generatedTokens, times }: GenerationSummary): void {
    const of = this.#instruments;
    // A name that nothing served may be anything a client made up.
    const adapter = servedBy === null ? OTHER_LABEL : this.#labels.count(servedBy.adapter);
    if (adapter === OTHER_LABEL) of.seriesDropped.inc({ family: 'adapter_requests' });
    of.adapterRequests.inc({ adapter, outcome: outcomeOf(code) });
    of.adapterPromptTokens.inc({ adapter }, promptTokens);
    of.adapterGeneratedTokens.inc({ adapter }, generatedTokens);
    if (code !== null) {
      this.#codes.add(code);
      of.adapterErrors.inc({ adapter, code });
    }
    if (times.firstTokenMs !== null) {
      of.adapterFirstTokenSeconds.inc({ adapter }, (times.firstTokenMs - times.receivedMs) / 1_000);
      of.adapterFirstTokens.inc({ adapter });
    }
  }

  /** Shows which of the labelled adapters are in memory. */
  resident(adapters: readonly AdapterInfo[]): void {
    const { adapterResident } = this.#instruments;
    adapterResident.reset();
    for (const { name, tier } of adapters) {
      if (tier !== 'disk' && this.#labels.has(name)) adapterResident.set({ adapter: name, tier }, 1);
    }
  }

  #drop(adapter: string): void {
    const of = this.#instruments;
    for (const outcome of OUTCOMES) of.adapterRequests.remove({ adapter, outcome });
    for (const code of this.#codes) of.adapterErrors.remove({ adapter, code });
    of.adapterPromptTokens.remove({ adapter });
    of.adapterGeneratedTokens.remove({ adapter });
    of.adapterFirstTokenSeconds.remove({ adapter });
    of.adapterFirstTokens.remove({ adapter });
  }
}
