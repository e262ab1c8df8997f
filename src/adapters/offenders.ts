import { LoramuxError, type Offender } from '../core/errors.js';

const SHOWN = 3;
/** Offenders that a reply lists, and characters of each of their texts: a hostile file must not make a huge reply. */
const LISTED = 200;
const MAX_TEXT = 300;

function shorten(text: string): string {
  return text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}…` : text;
}

function shortened({ tensor, key, expected, found }: Offender): Offender {
  return {
    ...(tensor === undefined ? {} : { tensor: shorten(tensor) }),
    ...(key === undefined ? {} : { key: shorten(key) }),
    expected: shorten(expected),
    found: shorten(found),
  };
}

function sentence(offender: Offender): string {
  const subject = offender.tensor ?? offender.key ?? 'file';
  return `${subject}: expected ${offender.expected}, found ${offender.found}`;
}

/**
 * ERR_ADAPTER_INVALID for one file with everything that is wrong in it: the first few in the message, up to LISTED in
 * `details.offenders`. `offenders` must not be empty; `hint` is a closing sentence.
 */
export function invalidAdapter(file: string, offenders: readonly Offender[], hint?: string): LoramuxError {
  const listed = offenders.slice(0, LISTED).map(shortened);
  const shown = listed.slice(0, SHOWN).map(sentence).join('; ');
  const more = offenders.length > SHOWN ? `; and ${offenders.length - SHOWN} more` : '';
  const closing = hint === undefined ? '' : `. ${hint}`;
  return new LoramuxError('ERR_ADAPTER_INVALID', `${file}: ${shown}${more}${closing}`, { file, offenders: listed });
}
