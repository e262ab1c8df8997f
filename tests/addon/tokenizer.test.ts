import assert from 'node:assert/strict';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { before, describe, test } from 'node:test';
import fc from 'fast-check';
import { loadBinding } from '../../src/engine/addon.js';
import type { NativeTokenizer } from '../../src/engine/binding.js';
import { TextAssembler } from '../../src/generation/text-assembler.js';
import { IncrementalDecoder } from '../../src/tokenizer/incremental-decoder.js';
import { casesOf, prepareLocal, SYNTHETIC, SYNTHETIC_TOKENS, syntheticModel } from '../helpers/synthetic.js';

/** What a byte-level decoder prints for bytes that are no character. */
const REPLACEMENT = '\u{FFFD}';
const RUNS = 300;
/** The same vocabulary as Hugging Face wrote it and as we rebuild it from GGUF metadata. */
const MODELS = ['llama-gqa-tied', 'llama-gqa-tied.F16'];

/** Text of every plane: ASCII, accents, scripts, emoji sequences, controls; no lone surrogates, which UTF-8 lacks. */
const anyText = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.string({ unit: 'grapheme', maxLength: 20 }),
  fc.constantFrom('👩‍👩‍👧‍👦 family', 'ẍ̧̈', '\u0000', '  \n\t ', '日本語テキスト', 'नमस्ते', '🇩🇪🇫🇷', '', REPLACEMENT),
);
const anyIds = fc.array(fc.nat({ max: SYNTHETIC_TOKENS - 1 }), { maxLength: 60 });

/** Deltas of the incremental decoder over `ids`, and what it held back to the end. */
function streamed(tokenizer: NativeTokenizer, ids: Iterable<number>): { deltas: string[]; rest: string } {
  const decoder = new IncrementalDecoder(tokenizer);
  const deltas = [...ids].map((id) => decoder.push(id));
  return { deltas, rest: decoder.flush() };
}

/** Tokens of single bytes that are no characters by themselves. */
async function byteTokens(tokenizer: NativeTokenizer): Promise<number[]> {
  const ids = Array.from({ length: SYNTHETIC_TOKENS }, (_, id) => id);
  const found = ids.filter((id) => tokenizer.decode(Uint32Array.of(id), false) === REPLACEMENT);
  assert.ok(found.length >= 100, `only ${found.length} tokens of single bytes`);
  return found;
}

/** The text of an answer of these tokens, up to a stop string. */
function assembled(
  tokenizer: NativeTokenizer,
  spec: ConstructorParameters<typeof TextAssembler>[1],
  ids: Uint32Array,
): string {
  const assembler = new TextAssembler(tokenizer, spec, new Uint32Array(0), []);
  let text = '';
  for (const [at, id] of ids.entries()) {
    const pushed = assembler.push(id, Number.NaN, null, false);
    const last = pushed.stopped || at < ids.length - 1 ? pushed : assembler.finish(pushed);
    text += last.delta;
    if (last.stopped) break;
  }
  return text;
}

for (const name of MODELS) {
  describe(`the tokenizer of ${name}`, () => {
    let tokenizer: NativeTokenizer;
    before(async () => {
      const { directory, manifest } = await prepareLocal(join(SYNTHETIC, syntheticModel(name).path), 'f32');
      tokenizer = loadBinding().Tokenizer.fromFile(join(directory, manifest.tokenizer.file));
    });

    test('encodes the texts of the cases to the ids that Hugging Face gives', async () => {
      const texts = casesOf(name).filter(({ text }) => text !== undefined);
      assert.ok(texts.length > 0);
      for (const { text = '', prompt_ids } of texts) {
        assert.deepEqual([...(await tokenizer.encode(text, false))], prompt_ids);
      }
    });

    test('any text comes back as it was, whole and streamed', () =>
      fc.assert(
        fc.asyncProperty(anyText, async (text) => {
          const ids = await tokenizer.encode(text, false);
          assert.ok(ids.every((id) => id < tokenizer.vocabSize()));
          assert.equal(tokenizer.decode(ids, false), text);
          const { deltas, rest } = streamed(tokenizer, ids);
          assert.equal(deltas.join('') + rest, text);
        }),
        { numRuns: RUNS },
      ));

    test('deltas of any ids and the rest join to the whole decode and cut no character', () =>
      fc.assert(
        fc.property(anyIds, (ids) => {
          const { deltas, rest } = streamed(tokenizer, ids);
          assert.equal(deltas.join('') + rest, tokenizer.decode(Uint32Array.from(ids), false));
          for (const delta of deltas) {
            assert.doesNotMatch(delta, /\p{Surrogate}/u);
            // Unless so many bytes are no text that they cannot be the start of a character.
            const broken = /\uFFFD*$/.exec(delta)?.[0].length ?? 0;
            assert.ok(broken === 0 || broken > 8, 'a character was given out before it was whole');
          }
        }),
        { numRuns: RUNS },
      ));

    test('what came so far and is held back is the whole decode of every prefix, broken bytes or not', async () => {
      const bytes = await byteTokens(tokenizer);
      const anyBytes = fc.array(fc.oneof(fc.constantFrom(...bytes), fc.nat({ max: SYNTHETIC_TOKENS - 1 })), {
        maxLength: 50,
      });
      fc.assert(
        fc.property(anyBytes, (ids) => {
          for (let length = 0; length <= ids.length; length += 1) {
            const { deltas, rest } = streamed(tokenizer, ids.slice(0, length));
            const whole = tokenizer.decode(Uint32Array.from(ids.slice(0, length)), false);
            assert.equal(deltas.join('') + rest, whole);
          }
        }),
        { numRuns: RUNS / 3 },
      );
    });

    test('stop strings are found wherever tokens cut them, and the text ends there', () => {
      const cut = fc.record({ text: anyText, from: fc.nat({ max: 50 }), length: fc.integer({ min: 1, max: 12 }) });
      return fc.assert(
        fc.asyncProperty(cut, fc.boolean(), async ({ text, from, length }, includeStop) => {
          const characters = [...text];
          const stop =
            characters
              .slice(from % (characters.length + 1))
              .slice(0, length)
              .join('') || '\n\n';
          const at = text.indexOf(stop);
          const ids = await tokenizer.encode(text, false);
          const spec = { stop: [stop], includeStop, skipSpecialTokens: false };
          assert.equal(
            assembled(tokenizer, spec, ids),
            at < 0 ? text : text.slice(0, at + (includeStop ? stop.length : 0)),
          );
        }),
        { numRuns: RUNS },
      );
    });

    test('knows its special tokens', async () => {
      const end = 2;
      assert.equal(tokenizer.vocabSize(), SYNTHETIC_TOKENS);
      assert.equal(tokenizer.isSpecial(end), true);
      assert.equal(tokenizer.isSpecial(100), false);
      assert.deepEqual([...(await tokenizer.encode('<|im_end|>', false))], [end]);
      assert.equal(tokenizer.decode(Uint32Array.of(100, end), true), tokenizer.decode(Uint32Array.of(100), false));
      assert.equal(tokenizer.decode(Uint32Array.of(end), false), '<|im_end|>');
    });

    test('ids that no token has are nothing, never a crash', () => {
      for (const id of [SYNTHETIC_TOKENS, 2 ** 31, 2 ** 32 - 1]) {
        assert.equal(tokenizer.isSpecial(id), false);
        assert.equal(tokenizer.decode(Uint32Array.of(id), false), '');
      }
      assert.equal(tokenizer.decode(new Uint32Array(0), false), '');
    });

    test('lone surrogates are replaced, as UTF-8 must', async () => {
      const ids = await tokenizer.encode('a\uD800b', false);
      assert.equal(tokenizer.decode(ids, false), `a${REPLACEMENT}b`);
    });
  });
}

describe('a tokenizer file that is none', () => {
  const directory = mkdtempSync(join(tmpdir(), 'loramux-tokenizer-'));
  const contents: readonly (readonly [what: string, text: string | null])[] = [
    ['missing', null],
    ['empty', ''],
    ['not JSON', '{"model"'],
    ['another JSON', '{"model": {"type": "Telepathy"}}'],
    ['a list', '[]'],
  ];
  for (const [what, text] of contents) {
    test(what, () => {
      const path = join(directory, `${what}.json`);
      if (text !== null) writeFileSync(path, text);
      assert.throws(
        () => loadBinding().Tokenizer.fromFile(path),
        (error: unknown) => {
          assert.ok(error instanceof Error);
          assert.equal((error as { code?: unknown }).code, 'ERR_TOKENIZER');
          assert.ok(error.message.includes(path), error.message);
          return true;
        },
      );
    });
  }

  test('a special token with an id beyond all reason is refused before a table is made for it', () => {
    const path = join(directory, 'far.json');
    const token = { id: 4_000_000_000, content: '<far>', special: true, single_word: false };
    const sides = { lstrip: false, rstrip: false, normalized: false };
    const model = { type: 'BPE', vocab: { a: 0 }, merges: [] };
    writeFileSync(path, JSON.stringify({ version: '1.0', added_tokens: [{ ...token, ...sides }], model }));
    let vocabulary: number | null = null;
    try {
      vocabulary = loadBinding().Tokenizer.fromFile(path).vocabSize();
    } catch (error) {
      assert.equal((error as { code?: unknown }).code, 'ERR_TOKENIZER');
    }
    // The library numbers added tokens itself where the file's number cannot be.
    assert.ok(vocabulary === null || vocabulary <= 2);
  });
});
