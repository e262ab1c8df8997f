import { isIP } from 'node:net';
import type { HostRule } from '../core/adapter-fetch.js';
import type { DeviceSetting } from '../core/device.js';
import { LoramuxError } from '../core/errors.js';

/** Turns the text of a flag or variable into its value; `origin` names it as the user wrote it. */
export type ValueParser<T> = (text: string, origin: string) => T;

function refuse(origin: string, expected: string, text: string): LoramuxError {
  return new LoramuxError('ERR_CONFIG', `${origin} accepts ${expected}, got "${text}"`, { field: origin });
}

/** Any text that is not empty. */
export const text: ValueParser<string> = (value, origin) => {
  if (value.trim() === '') throw refuse(origin, 'a value that is not empty', value);
  return value;
};

/** A whole number from `min` to `max`, decimal digits only. */
export function integer(min: number, max: number): ValueParser<number> {
  return (value, origin) => {
    const number = /^\d{1,15}$/.test(value) ? Number(value) : Number.NaN;
    if (!(number >= min && number <= max)) throw refuse(origin, `a whole number from ${min} to ${max}`, value);
    return number;
  };
}

/**
 * One of `choices`. `elsewhere` holds words that other builds or releases know: they are refused by name, with
 * what to use here.
 */
export function choice<T extends string>(
  choices: readonly T[],
  elsewhere: Readonly<Record<string, string>> = {},
): ValueParser<T> {
  return (value, origin) => {
    const known = choices.find((candidate) => candidate === value);
    if (known !== undefined) return known;
    const expected = choices.join(', ');
    const advice = Object.hasOwn(elsewhere, value) ? elsewhere[value] : undefined;
    if (advice === undefined) throw refuse(origin, `one of ${expected}`, value);
    throw new LoramuxError('ERR_CONFIG', `${origin} "${value}" is not in this build: ${advice} (one of ${expected})`, {
      field: origin,
    });
  };
}

/** Some of `choices`, separated by commas, each once; or the word `none`. */
export function listOf<T extends string>(choices: readonly T[], none: string): ValueParser<readonly T[]> {
  return (value, origin) => {
    if (value === none) return [];
    const items = value.split(',').map((item) => choices.find((candidate) => candidate === item.trim()));
    const known = items.filter((item) => item !== undefined);
    if (known.length === items.length && new Set(known).size === known.length) return known;
    throw refuse(origin, `${none}, or ${choices.join(' and ')} separated by commas`, value);
  };
}

const BYTE_UNITS: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
  TIB: 2 ** 40,
};

/** A number of bytes: `64MiB`, `1.5GB`, `1048576`. Fractions of a byte are dropped. */
export const bytes: ValueParser<number> = (value, origin) => {
  const match = /^(\d{1,15}(?:\.\d{1,6})?)\s*([A-Za-z]*)$/.exec(value);
  const unit = BYTE_UNITS[(match?.[2] ?? '?').toUpperCase()];
  const count = match === null || unit === undefined ? Number.NaN : Math.floor(Number(match[1]) * unit);
  if (!(count >= 1 && Number.isSafeInteger(count))) {
    throw refuse(origin, 'a size such as 64MiB, 8GiB, 500MB or plain bytes', value);
  }
  return count;
};

/** As `bytes`, or a share above 0 and up to 1, such as `0.9`. */
export const bytesOrShare: ValueParser<number> = (value, origin) => {
  if (!/^\d?\.\d{1,6}$|^1$/.test(value)) return bytes(value, origin);
  const share = Number(value);
  if (share > 0 && share <= 1) return share;
  throw refuse(origin, 'a size such as 64GiB, or a share such as 0.9', value);
};
/** As `bytes`, or 0. */
export const bytesOrNone: ValueParser<number> = (value, origin) => (value === '0' ? 0 : bytes(value, origin));

const DURATION_UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };

/** Longest delay that a Node timer takes. */
const MAX_DURATION_MS = 2 ** 31 - 1;

/** A duration in milliseconds: `250ms`, `30s`, `2m`, `1h`. A unit is required, except for `0`. */
export const duration: ValueParser<number> = (value, origin) => {
  const match = /^(\d{1,12}(?:\.\d{1,6})?)(ms|s|m|h)$/.exec(value === '0' ? '0s' : value);
  const milliseconds =
    match === null ? Number.NaN : Math.round(Number(match[1]) * (DURATION_UNITS[match[2] ?? ''] ?? 0));
  if (!(milliseconds <= MAX_DURATION_MS))
    throw refuse(origin, 'a duration such as 250ms, 30s or 2m, up to 24 days', value);
  return milliseconds;
};

/** Origins as browsers send them, separated by commas. */
export const originList: ValueParser<readonly string[]> = (value, origin) => {
  const origins = value.split(',').map((each) => each.trim());
  const isOrigin = (each: string): boolean => URL.canParse(each) && new URL(each).origin === each;
  if (!origins.every(isOrigin)) throw refuse(origin, 'https://HOST or https://HOST,http://HOST:PORT…', value);
  return origins;
};

/** As `originList`, or `*` for all origins. */
export const anyOrOrigins: ValueParser<readonly string[]> = (value, origin) =>
  value === '*' ? [value] : originList(value, origin);

/** An address of a web server, without slashes at its end. */
export const httpUrl: ValueParser<string> = (value, origin) => {
  if (!URL.canParse(value) || !/^https?:$/.test(new URL(value).protocol)) {
    throw refuse(origin, 'an http:// or https:// address', value);
  }
  return value.replace(/\/+$/, '');
};

/** `auto`, `cpu`, `cuda` (the first GPU) or `cuda:N`. */
export const device: ValueParser<DeviceSetting> = (value, origin) => {
  if (value === 'auto' || value === 'cpu') return value;
  const [, index] = /^cuda(?::(\d{1,3}))?$/.exec(value) ?? [];
  if (index === undefined && value !== 'cuda') throw refuse(origin, 'auto, cpu, cuda or cuda:N', value);
  return `cuda:${Number(index ?? 0)}`;
};

/** `on` or `off`. */
export const onOff: ValueParser<boolean> = (value, origin) => {
  if (value !== 'on' && value !== 'off') throw refuse(origin, 'on or off', value);
  return value === 'on';
};

/** Model names separated by commas: 1 to 256 characters each, no control characters and no spaces around them. */
export const nameList: ValueParser<readonly string[]> = (value, origin) => {
  const names = value.split(',');
  const isName = (name: string): boolean => /^[^\p{Cc}]{1,256}$/u.test(name) && name.trim() === name;
  if (!names.every(isName)) throw refuse(origin, 'NAME or NAME,NAME…', value);
  return names;
};

const HOST_NAME = /^(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_][a-z0-9_-]{0,62})*$/;

/** Hosts separated by commas: names, addresses, IPv6 in brackets, each with a port or, if `needsPort` is false, none. */
export function hostList(needsPort: boolean): ValueParser<readonly HostRule[]> {
  const expected = `${needsPort ? 'HOST:PORT' : 'HOST or HOST:PORT'}, separated by commas`;
  return (value, origin) =>
    value.split(',').map((item) => {
      const [, bracketed, plain, digits] =
        /^(?:\[([^\]]+)\]|([^:[\]]+))(?::(\d{1,5}))?$/.exec(item.trim().toLowerCase()) ?? [];
      const isKnown = bracketed === undefined ? HOST_NAME.test(plain ?? '') : isIP(bracketed) === 6;
      const port = digits === undefined ? null : Number(digits);
      if (!isKnown || port === 0 || (port ?? 0) > 65535 || (needsPort && port === null)) {
        throw refuse(origin, expected, value);
      }
      // As URLs spell them: IPv6 addresses have many forms.
      const host = bracketed === undefined ? (plain ?? '') : new URL(`http://[${bracketed}]`).hostname.slice(1, -1);
      return { host, port };
    });
}
