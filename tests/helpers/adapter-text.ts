import type { AdapterText } from '../../src/core/adapter-text.js';

/** A text that differs from the base's in its template; `prefix` stands for a tokenizer (byte-tokenizer.ts). */
export function adapterText({
  prefix,
  ...changes
}: Partial<AdapterText> & { readonly prefix?: string } = {}): AdapterText {
  return {
    digest: 'e'.repeat(64),
    tokenizer: prefix === undefined ? null : shared(prefix),
    template: 'own',
    ownTemplate: true,
    specialTokens: {},
    eosTokenIds: [257],
    sharesVocabulary: true,
    ...changes,
  };
}

function shared(text: string): SharedArrayBuffer {
  const bytes = new TextEncoder().encode(text);
  const buffer = new SharedArrayBuffer(bytes.byteLength);
  new Uint8Array(buffer).set(bytes);
  return buffer;
}
