import type { AdapterVariant } from '../../core/adapter.js';
import { LoramuxError } from '../../core/errors.js';

/** Variants whose whole effect is a delta that scales with its weight and adds to others. */
const SUMMABLE: ReadonlySet<AdapterVariant> = new Set<AdapterVariant>(['lora', 'rslora', 'bdlora']);

/**
 * Refuses an adapter in a list or a merge when a weighted delta is not all that it does. `what` names the request's
 * field. Errors: ERR_ADAPTER_INVALID.
 */
export function requireSummable(name: string, variant: readonly AdapterVariant[], what: string): void {
  const offending = variant.filter((one) => !SUMMABLE.has(one));
  if (offending.length === 0) return;
  throw new LoramuxError(
    'ERR_ADAPTER_INVALID',
    `expected plain or rsLoRA adapters in ${what}, but ${name} is ${offending.join(' + ')}: use it alone, as adapter_id`,
    { field: what },
  );
}
