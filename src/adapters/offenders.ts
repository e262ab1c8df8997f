import { LoramuxError, type Offender } from '../core/errors.js';

const SHOWN = 3;

function sentence(offender: Offender): string {
  const subject = offender.tensor ?? offender.key ?? 'file';
  return `${subject}: expected ${offender.expected}, found ${offender.found}`;
}

/**
 * ERR_ADAPTER_INVALID for one file with everything that is wrong in it: the first few in the message, all of them in
 * `details.offenders`. `offenders` must not be empty; `hint` is a closing sentence.
 */
export function invalidAdapter(file: string, offenders: readonly Offender[], hint?: string): LoramuxError {
  const shown = offenders.slice(0, SHOWN).map(sentence).join('; ');
  const more = offenders.length > SHOWN ? `; and ${offenders.length - SHOWN} more` : '';
  const closing = hint === undefined ? '' : `. ${hint}`;
  return new LoramuxError('ERR_ADAPTER_INVALID', `${file}: ${shown}${more}${closing}`, { file, offenders });
}
