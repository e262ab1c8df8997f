import { appendFileSync } from 'node:fs';

/** Facts of a run: everything after it in the file was measured there. */
export interface DeviceRecord {
  readonly kind: 'device';
  readonly date: string;
  readonly commit: string;
  /** Kernels ran on the CPU: figures say nothing about a GPU. */
  readonly isGpu: boolean;
  readonly device: string;
  readonly capability: number | null;
  readonly totalBytes: number | null;
  readonly driver: number | null;
  readonly node: string;
  readonly cpu: string;
  /** Bytes a second that copies on the device moved, read and written; null = not measured. */
  readonly memoryBandwidth: number | null;
}

/** One figure. */
export interface MeasureRecord {
  readonly kind: 'measure';
  readonly shape: string;
  readonly precision: string;
  readonly name: string;
  readonly unit: string;
  /** Of each round, in order. */
  readonly values: readonly number[];
  /** Median of the values. */
  readonly value: number;
  /** What was aimed at; null = nothing. */
  readonly target: { readonly atLeast: number } | { readonly atMost: number } | null;
  readonly isMet: boolean | null;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const [low = Number.NaN, high = low] = sorted.slice(sorted.length % 2 === 0 ? middle - 1 : middle, middle + 1);
  return sorted.length % 2 === 0 ? (low + high) / 2 : low;
}

/** Appends records to a file and shows them. */
export class Recorder {
  constructor(
    private readonly path: string,
    private readonly shape: string,
    private readonly precision: string,
  ) {}

  measure(name: string, unit: string, values: readonly number[], target: MeasureRecord['target'] = null): void {
    const value = median(values);
    const isMet = target === null ? null : 'atLeast' in target ? value >= target.atLeast : value <= target.atMost;
    const { shape, precision } = this;
    const record: MeasureRecord = { kind: 'measure', shape, precision, name, unit, values, value, target, isMet };
    appendFileSync(this.path, `${JSON.stringify(record)}\n`);
    const verdict = isMet === null ? '' : isMet ? ', met' : ', MISSED';
    const aim =
      target === null
        ? ''
        : ` (target ${'atLeast' in target ? `≥ ${target.atLeast}` : `≤ ${target.atMost}`}${verdict})`;
    console.log(`${shape} ${precision} ${name}: ${Number(value.toPrecision(4))} ${unit}${aim}`);
  }
}
