import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { LoramuxError } from '../core/errors.js';
import { formatKey, type KeyRecord, parseKeyFile } from './key-file.js';
import { readKeyFile } from './key-store.js';

/** Of a new file: its owner's alone. */
const MODE = 0o600;

/**
 * Replaces a file by what `edit` makes of its text ('' when there is none yet), in one step: a server that reads it
 * meanwhile sees the old or the new one. ERR_CONFIG when another command is at it, or the result is malformed.
 */
function rewrite(file: string, edit: (text: string) => string): void {
  const exists = existsSync(file);
  // A link stays one.
  const path = exists ? realpathSync(file) : file;
  // The new text's own name is the lock: only one command can create it.
  const lock = `${path}.lock`;
  const descriptor = openLock(lock, exists ? statSync(path).mode & 0o777 : MODE);
  try {
    const text = edit(exists ? readKeyFile(path) : '');
    parseKeyFile(text, file);
    writeSync(descriptor, text);
    fsyncSync(descriptor);
    renameSync(lock, path);
  } catch (thrown) {
    rmSync(lock, { force: true });
    throw thrown;
  } finally {
    closeSync(descriptor);
  }
}

function openLock(lock: string, mode: number): number {
  try {
    return openSync(lock, 'wx', mode);
  } catch (thrown) {
    const taken = (thrown as NodeJS.ErrnoException).code === 'EEXIST';
    const reason = thrown instanceof Error ? thrown.message : String(thrown);
    const message = taken
      ? `expected to change the API keys alone, but ${lock} is there: another command is at it, or remove it if one was cut off`
      : `expected to write the file of API keys: ${reason}`;
    throw new LoramuxError('ERR_CONFIG', message, { file: lock }, { cause: thrown });
  }
}

/** Appends a key, creating the file if need be. ERR_CONFIG for a name that is taken and for a malformed file. */
export function addKey(file: string, record: KeyRecord): void {
  rewrite(file, (text) => `${text}${text === '' || text.endsWith('\n') ? '' : '\n'}${formatKey(record)}\n`);
}

/** Takes a key out; the rest, comments included, stays as it is. ERR_CONFIG when there is none of the name. */
export function removeKey(file: string, name: string): void {
  rewrite(file, (text) => {
    const lines = text.split('\n');
    const kept = lines.filter((line) => line.trim().split(/\s+/, 1)[0] !== name);
    if (kept.length === lines.length) {
      throw new LoramuxError('ERR_CONFIG', `${file} holds no key called ${name}`, { file });
    }
    if (kept.every((line) => line.trim() === '' || line.trim().startsWith('#'))) {
      const message = `${name} is the last key of ${file}, and a server goes on with the keys it has when there are none: add another first`;
      throw new LoramuxError('ERR_CONFIG', message, { file });
    }
    return kept.join('\n');
  });
}
