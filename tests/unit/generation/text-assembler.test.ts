import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { TextAssembler } from '../../../src/generation/text-assembler.js';
import { decodingContext, IncrementalDecoder } from '../../../src/tokenizer/incremental-decoder.js';
import { ByteTokenizer, SPECIAL } from '../../helpers/byte-tokenizer.js';

const tokenizer = new ByteTokenizer();
const END = 10;

/** Bytes of real text cut anywhere, special tokens and end tokens among them. */
const id = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom(...new TextEncoder().encode('a€😀 é')) },
  fc.constantFrom(END, ...Object.values(SPECIAL)),
);

test("tokens' own text and the answer's are those of a decoder each, wherever special and end tokens come", () => {
  fc.assert(
    fc.property(fc.array(id), fc.array(id, { minLength: 1 }), fc.boolean(), (prompt, ids, skipSpecialTokens) => {
      const options = { stop: [], includeStop: false, skipSpecialTokens };
      const assembler = new TextAssembler(tokenizer, options, Uint32Array.from(prompt), [END]);
      const isHidden = (id: number): boolean => id === END || (skipSpecialTokens && tokenizer.isSpecial(id));
      const tail = prompt.slice(-32);
      const plain = skipSpecialTokens ? tail.filter((id) => !tokenizer.isSpecial(id)) : tail;
      const shown = new IncrementalDecoder(tokenizer, decodingContext(tokenizer, tail));
      const answer = new IncrementalDecoder(tokenizer, decodingContext(tokenizer, plain));
      const assembled = ids.map((id) => {
        const made = assembler.push(id, Number.NaN, null, false);
        assert.deepEqual([made.token.text, made.delta], [shown.push(id), isHidden(id) ? '' : answer.push(id)]);
        return made;
      });
      const last = assembled.at(-1);
      assert.ok(last);
      const whole = assembler.finish(last);
      assert.equal(whole.token.text, last.token.text + shown.flush());
      assert.equal(whole.delta, last.delta + answer.flush());
    }),
  );
});
