import type { MetricObjectWithValues, MetricValue } from 'prom-client';

/** LoRAX's JSON form of one metric family. */
interface Family {
  readonly type: string;
  readonly data: readonly { readonly key: string; readonly value: number }[];
}

function keyOf(name: string, labels: Readonly<Record<string, unknown>>): string {
  const pairs = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
  if (pairs.length > 0) return `${name}{${pairs.join(',')}}`;
  return /_(sum|count)$/.exec(name)?.[1] ?? '';
}

/** Families by name; the key of a sample is its name with labels, else `sum`, `count` or `''`. */
export function toJsonForm(
  metrics: readonly MetricObjectWithValues<MetricValue<string> & { metricName?: string }>[],
): Readonly<Record<string, Family>> {
  return Object.fromEntries(
    metrics.map(({ name, type, values }) => {
      const data = values.map(({ metricName, labels, value }) => ({ key: keyOf(metricName ?? name, labels), value }));
      return [name, { type: String(type), data }];
    }),
  );
}
