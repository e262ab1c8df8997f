import { createHash } from 'node:crypto';
import type { AdapterInfo, AdapterVariant } from '../../core/adapter.js';
import { LoramuxError, toLoramuxError } from '../../core/errors.js';
import { BASE_NAME } from '../../core/names.js';
import { ANSWER_TOKENS, requestFor, type Target, type VerifyCase } from './cases.js';
import { type Combination, combinationsOf } from './combinations.js';
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
  readonly variant: readonly AdapterVariant[];
  /** Of every module; null where ranks differ, and for the base. */
  readonly rank: number | null;
  /** Directory that it is loaded from; empty for the base. */
  readonly directory: string;
}

export interface SoloRuns {
  readonly subjects: readonly Subject[];
  readonly combinations: readonly Combination[];
  /** Adapters that cannot be loaded and combinations that cannot be made, with the reason. */
  readonly refused: readonly { readonly name: string; readonly reason: string }[];
  /** By `answerKey`. */
  readonly answers: ReadonlyMap<string, Answer>;
}

/** What one request alone came to, and the digest that served it. */
export interface SoloTokens {
  readonly tokens: number[];
  readonly digest: string;
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
  target: Target,
  one: VerifyCase,
  onLogits: (logits: Float32Array) => void,
): Promise<SoloTokens> {
  return new Promise((resolve, reject) => {
    const tokens: number[] = [];
    let digest: string = BASE_NAME;
    engine.submit(requestFor(id, target, one, ANSWER_TOKENS, `alone ${id}`), {
      onLogits,
      onEvent: (event) => {
        if (event.kind === 'admitted') digest = event.servedBy.digest ?? BASE_NAME;
        if (event.kind === 'token') tokens.push(event.token);
        if (event.kind === 'finish') resolve({ tokens, digest });
        if (event.kind === 'error') reject(LoramuxError.fromRecord(event.error));
      },
    });
  });
}

/** Digest that a subject's answers are kept under; several adapters combined answer otherwise than each alone. */
export function servedDigest(digest: string, combination: string | null): string {
  return combination === null ? digest : `${combination} ${digest}`;
}

/**
 * Every case with the base, with each adapter of the engine's folder, and with combinations of them whose members fit
 * into what `budgetOf` the adapters allows; one request at a time. Adapters are unloaded again, so that memory holds
 * what one request needs.
 */
export async function runSolo(
  engine: PrivateEngine,
  cases: readonly VerifyCase[],
  budgetOf: (adapters: readonly Subject[]) => number,
): Promise<SoloRuns> {
  const subjects: Subject[] = [];
  const refused: { name: string; reason: string }[] = [];
  const answers = new Map<string, Answer>();
  let nextId = 1;
  const record = async (target: Target): Promise<void> => {
    const label = target.composition === null ? null : target.adapter;
    for (const [at, one] of cases.entries()) {
      const logits: string[] = [];
      const { tokens, digest } = await runAlone(engine, nextId++, target, one, (row) => logits.push(hashLogits(row)));
      answers.set(answerKey(servedDigest(digest, label), at), { tokens, logits });
    }
  };
  await record({ adapter: BASE_NAME, composition: null });
  subjects.push({ name: BASE_NAME, digest: BASE_NAME, bytes: 0, directory: '', variant: [], rank: null });
  const { adapters } = await engine.admin({ op: 'list' });
  for (const { name, source } of adapters) {
    const directory = source.replace(/^dir:/, '');
    let info: AdapterInfo;
    try {
      info = await load(engine, name, directory);
    } catch (thrown) {
      refused.push({ name, reason: toLoramuxError(thrown).message });
      continue;
    }
    const { digest, bytes, variant, ranks } = info;
    await record({ adapter: name, composition: null });
    const rank = ranks !== null && ranks.min === ranks.max ? ranks.max : null;
    subjects.push({ name, digest: digest ?? '', bytes, directory, variant, rank });
    await engine.admin({ op: 'unload', name, force: false });
  }
  const combinations: Combination[] = [];
  for (const combination of combinationsOf(subjects, budgetOf(subjects))) {
    const { label, composition, members } = combination;
    for (const { name, directory } of members) await load(engine, name, directory);
    try {
      await record({ adapter: label, composition });
      combinations.push(combination);
    } catch (thrown) {
      refused.push({ name: label, reason: toLoramuxError(thrown).message });
    }
    for (const { name } of members) await engine.admin({ op: 'unload', name, force: false });
  }
  return { subjects, combinations, refused, answers };
}

async function load(engine: PrivateEngine, name: string, directory: string): Promise<AdapterInfo> {
  const source = { type: 'dir', location: directory } as const;
  return (await engine.admin({ op: 'load', name, source, pin: false, wait: true, replace: true })).adapter;
}
