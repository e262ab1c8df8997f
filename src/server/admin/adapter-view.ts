import type { AdapterInfo } from '../../core/adapter.js';

/** An adapter as the admin API shows it: as the engine knows it, with the failure's details beside its message. */
export function adapterView(adapter: AdapterInfo): Readonly<Record<string, unknown>> {
  const { failure, ...rest } = adapter;
  if (failure === null) return rest;
  const { code, message, details } = failure;
  return { ...rest, failure: { code, message, ...details } };
}
