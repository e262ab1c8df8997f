import type { SpecialTokens } from './tokenizer-config.js';

/** How text becomes tokens and tokens text for an adapter whose files say otherwise than the base's. */
export interface AdapterText {
  /** Hex SHA-256 of all that follows: what has the same digest handles text alike. */
  readonly digest: string;
  /** A `tokenizer.json` in UTF-8, shared between threads; null = the base's tokenizer. */
  readonly tokenizer: SharedArrayBuffer | null;
  /** Source of the chat template, the base's where the adapter has none; null = neither has one. */
  readonly template: string | null;
  /** True when the template is not the base's. */
  readonly ownTemplate: boolean;
  /** Those that the template names. */
  readonly specialTokens: SpecialTokens;
  /** Ids that end a generation; never empty. */
  readonly eosTokenIds: readonly number[];
  /** Whether every id that may be generated means what it means to the base. */
  readonly sharesVocabulary: boolean;
}

/** A text file of an adapter as it was read: what its hash stands for is what is used. */
export interface TextFile {
  /** Name in the adapter's directory. */
  readonly path: string;
  readonly bytes: number;
  /** Hex SHA-256 of the content. */
  readonly sha256: string;
  readonly content: Uint8Array<ArrayBuffer>;
}

/** What an adapter's text files come to. */
export interface ReadText {
  /** Null = text is handled as the base handles it. */
  readonly text: AdapterText | null;
  /** Sentences for the operator about what was accepted but looks odd. */
  readonly warnings: readonly string[];
}

/** Bytes that a text keeps in memory beside the adapter itself. */
export function textBytes(text: AdapterText | null): number {
  const template = text?.ownTemplate === true ? (text.template?.length ?? 0) : 0;
  return (text?.tokenizer?.byteLength ?? 0) + 2 * template;
}

/** Whose text handling an adapter is served with, as operators see it. */
export interface AdapterTextInfo {
  readonly tokenizer: 'base' | 'own';
  readonly template: 'base' | 'own';
  /** Null when nothing differs from the base. */
  readonly digest: string | null;
}

export function textInfo(text: AdapterText | null): AdapterTextInfo {
  return {
    tokenizer: text === null || text.tokenizer === null ? 'base' : 'own',
    template: text?.ownTemplate === true ? 'own' : 'base',
    digest: text?.digest ?? null,
  };
}
