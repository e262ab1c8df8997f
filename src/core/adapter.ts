import type { FetchProgress } from './adapter-source.js';
import type { AdapterTextInfo } from './adapter-text.js';
import type { ErrorRecord } from './errors.js';

export type AdapterState = 'queued' | 'fetching' | 'validating' | 'ready' | 'draining' | 'failed';
export type AdapterTier = 'disk' | 'host' | 'device';
export type AdapterVariant =
  | 'lora'
  | 'rslora'
  | 'alora'
  | 'dora'
  | 'bdlora'
  | 'lora_bias'
  | 'bias'
  | 'modules_to_save'
  | 'trainable_tokens';

/** What an adapter did to the logits of the probe prompt when it was loaded. */
export interface AdapterProof {
  /** Largest |logit with the adapter − logit of the base| of the token after the prompt. */
  readonly maxLogitDelta: number;
  /** Length of the prompt. */
  readonly probeTokens: number;
}

/** An adapter as the admin API shows it. Byte counts are what the budget counts. */
export interface AdapterInfo {
  readonly name: string;
  /** Second names of its digest. */
  readonly aliases: readonly string[];
  /** Hex SHA-256 of the adapter's files; null until it was read once. */
  readonly digest: string | null;
  readonly state: AdapterState;
  readonly tier: AdapterTier;
  readonly bytes: number;
  readonly ranks: { readonly min: number; readonly max: number } | null;
  readonly variant: readonly AdapterVariant[];
  readonly modules: { readonly inFile: number; readonly applied: number } | null;
  /** Of the last good load; null before it. */
  readonly proof: AdapterProof | null;
  readonly baseModel: string | null;
  /** Whose tokenizer and chat template its requests get; null until it was read once. */
  readonly text: AdapterTextInfo | null;
  /** `dir:PATH`, `hub:ORG/NAME@REV`, `s3://…`, `https://…` or `upload:DIGEST`; never with a secret. */
  readonly source: string;
  /** While files are being fetched from a remote source. */
  readonly progress?: FetchProgress;
  readonly pins: { readonly rows: number; readonly operator: boolean };
  /** ISO 8601, null while not resident / never used. */
  readonly loadedAt: string | null;
  readonly lastUsedAt: string | null;
  readonly requests: number;
  readonly failure: ErrorRecord | null;
  /** Sentences about what was accepted but looks odd; absent or empty when nothing does. */
  readonly warnings?: readonly string[];
}

/** Bytes of one memory tier. */
export interface TierInfo {
  readonly tier: AdapterTier;
  readonly bytes: number;
  readonly capacity: number;
  readonly pinned: number;
}

/** How an engine keeps the factors of linear modules: as the file has them, or as signed numbers of 8 or 4 bits with scales. */
export type AdapterDtype = 'file' | 'int8' | 'int4';
