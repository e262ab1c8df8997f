import type { NativeTokenizer, NativeTokenSpans } from '../../src/engine/binding.js';

/** Ids of the special tokens of the byte tokenizer; ids below are bytes. */
export const SPECIAL = { '<s>': 256, '</s>': 257, '<pad>': 258 } as const;

const NAMES = new Map<number, string>(Object.entries(SPECIAL).map(([name, id]) => [id, name]));

/**
 * A tokenizer whose tokens are single UTF-8 bytes, with extra tokens of several bytes from id 300 on: enough to cut
 * characters anywhere. Decodes invalid bytes to U+FFFD, as byte-level tokenizers do.
 */
export class ByteTokenizer implements Pick<NativeTokenizer, 'encode' | 'encodeSpans' | 'decode' | 'isSpecial'> {
  readonly #extra: readonly Uint8Array[];

  constructor(extra: readonly Uint8Array[] = []) {
    this.#extra = extra;
  }

  async encode(text: string, addSpecialTokens: boolean): Promise<Uint32Array> {
    const bytes = [...new TextEncoder().encode(text)];
    return Uint32Array.from(addSpecialTokens ? [SPECIAL['<s>'], ...bytes] : bytes);
  }

  /** Bytes are spelt as two hexadecimal digits; each lies where its whole character does. */
  async encodeSpans(text: string, addSpecialTokens: boolean): Promise<NativeTokenSpans> {
    const ids = await this.encode(text, addSpecialTokens);
    const added = addSpecialTokens ? ['<s>'] : [];
    const characters = [...text].map((character) => [...new TextEncoder().encode(character)]);
    const spelt = [...added, ...characters.flat().map((byte) => byte.toString(16).padStart(2, '0'))];
    const places = characters.flatMap((bytes, at) => bytes.flatMap(() => [at, at + 1]));
    let end = 0;
    const ends = spelt.map((token) => {
      end += token.length;
      return end;
    });
    const offsets = Uint32Array.from([...added.flatMap(() => [0, 0]), ...places]);
    return { ids, tokens: spelt.join(''), ends: Uint32Array.from(ends), offsets };
  }

  decode(ids: Uint32Array, skipSpecialTokens: boolean): string {
    const bytes = [...ids].flatMap((id) => this.#bytesOf(id, skipSpecialTokens));
    return new TextDecoder().decode(Uint8Array.from(bytes));
  }

  isSpecial(id: number): boolean {
    return NAMES.has(id);
  }

  #bytesOf(id: number, skipSpecialTokens: boolean): number[] {
    const name = NAMES.get(id);
    if (name !== undefined) return skipSpecialTokens ? [] : [...new TextEncoder().encode(name)];
    return id < 256 ? [id] : [...(this.#extra[id - 300] ?? [])];
  }
}

/** Another tokenizer than the base's: puts a text before every other, and shows letters as capitals. */
class LoudTokenizer extends ByteTokenizer {
  readonly #prefix: string;

  constructor(prefix: string) {
    super();
    this.#prefix = prefix;
  }

  override encode(text: string, addSpecialTokens: boolean): Promise<Uint32Array> {
    return super.encode(this.#prefix + text, addSpecialTokens);
  }

  override decode(ids: Uint32Array, skipSpecialTokens: boolean): string {
    return super.decode(ids, skipSpecialTokens).toUpperCase();
  }
}

/** In tests the text that a tokenizer puts before all others stands for an adapter's `tokenizer.json`. */
export function openByteTokenizer(prefix: Uint8Array): Promise<ByteTokenizer> {
  return Promise.resolve(new LoudTokenizer(new TextDecoder().decode(Uint8Array.from(prefix))));
}
