import { createHash } from 'node:crypto';
import type { AdapterInfo } from '../../core/adapter.js';
import { LoramuxError, toLoramuxError } from '../../core/errors.js';
import { BASE_NAME } from '../../core/names.js';
import { ANSWER_TOKENS, requestFor, type VerifyCase } from './cases.js';
import type { PrivateEngine } from './private-engine.js';

/** What one case came to with one adapter, alone. */
export interface Answer {
  readonly tokens: readonly number[];
  /** SHA-256 of the logits behind each token. */
  readonly logits: readonly string[];
}

/** An adapter that takes part. */
export interface Subject {
  readonly name: string;
  /** `__base__` for the base. */
  readonly digest: string;
  readonly bytes: number;
  /** Directory that it is loaded from; empty for the base. */
  readonly directory: string;
}

export interface SoloRuns {
  readonly subjects: readonly Subject[];
  /** Adapters that cannot be loaded, with the reason. */
  readonly refused: readonly { readonly name: string; readonly reason: string }[];
  /** By `answerKey`. */
  readonly answers: ReadonlyMap<string, Answer>;
}

export function answerKey(digest: string, caseIndex: number): string {
  return `${digest} ${caseIndex}`;
}

/** Identity of a row of logits: equal bits, equal hash. */
export function hashLogits(logits: Float32Array): string {
  return createHash('sha256')
    .update(new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength))
    .digest('hex');
}

/** Runs one request with nobody beside it, every row computed; `onLogits` sees the row behind each token. Throws the error that ends it. */
export function runAlone(
  engine: PrivateEngine,
  id: number,
  adapter: string,
  one: VerifyCase,
  onLogits: (logits: Float32Array) => void,
): Promise<number[]> {
  return new Promise((resolve, reject) => {
    const tokens: number[] = [];
    engine.submit(requestFor(id, adapter, one, ANSWER_TOKENS, `alone ${id}`), {
      onLogits,
      onEvent: (event) => {
        if (event.kind === 'token') tokens.push(event.token);
        if (event.kind === 'finish') resolve(tokens);
        if (event.kind === 'error') reject(LoramuxError.fromRecord(event.error));
      },
    });
  });
}

/**
 * Every case with the base and with each adapter of the engine's folder, one request at a time; adapters are unloaded
 * again, so that memory holds one.
 */
export async function runSolo(engine: PrivateEngine, cases: readonly VerifyCase[]): Promise<SoloRuns> {
  const subjects: Subject[] = [];
  const refused: { name: string; reason: string }[] = [];
  const answers = new Map<string, Answer>();
  let nextId = 1;
  const record = async (subject: Subject): Promise<void> => {
    for (const [at, one] of cases.entries()) {
      const logits: string[] = [];
      const tokens = await runAlone(engine, nextId++, subject.name, one, (row) => logits.push(hashLogits(row)));
      answers.set(answerKey(subject.digest, at), { tokens, logits });
    }
    subjects.push(subject);
  };
  await record({ name: BASE_NAME, digest: BASE_NAME, bytes: 0, directory: '' });
  const { adapters } = await engine.admin({ op: 'list' });
  for (const { name, source } of adapters) {
    const directory = source.replace(/^dir:/, '');
    let info: AdapterInfo;
    try {
      const from = { type: 'dir', location: directory } as const;
      const load = { op: 'load', name, source: from, pin: false, wait: true, replace: true } as const;
      info = (await engine.admin(load)).adapter;
    } catch (thrown) {
      refused.push({ name, reason: toLoramuxError(thrown).message });
      continue;
    }
    await record({ name, digest: info.digest ?? '', bytes: info.bytes, directory });
    await engine.admin({ op: 'unload', name, force: false });
  }
  return { subjects, refused, answers };
}
