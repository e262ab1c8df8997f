import type { AdapterText } from '../../core/adapter-text.js';
import { LoramuxError } from '../../core/errors.js';

interface Member {
  readonly name: string;
  readonly text: AdapterText | null;
}

/**
 * Whose text handling several adapters at once get: theirs if all agree, else the base's, as long as ids mean the same
 * to all of them. `field` is where the request names them. Errors: ERR_ADAPTER_INVALID for a vocabulary of its own.
 */
export function commonText(members: readonly Member[], field: string): AdapterText | null {
  const first = members[0]?.text ?? null;
  if (members.every(({ text }) => text?.digest === first?.digest)) return first;
  const odd = members.find(({ text }) => text?.sharesVocabulary === false);
  if (odd === undefined) return null;
  throw new LoramuxError(
    'ERR_ADAPTER_INVALID',
    `expected adapters of one vocabulary in ${field}, but ${odd.name} ships a tokenizer with another than the rest: use it alone, as adapter_id`,
    { field },
  );
}
