import { Readable } from 'node:stream';
import { setImmediate as otherWork } from 'node:timers/promises';
import type { FastifyInstance } from 'fastify';
import { toLoramuxError } from '../../core/errors.js';
import type { NativeTokenizer, NativeTokenSpans } from '../../engine/binding.js';
import { readBoolean, readObject, readString } from '../fields.js';
import { TOKENIZE } from '../schemas/lorax.js';
import { requiredBody } from './required-body.js';
import { refuseUnknownFields } from './unsupported.js';

/** What the route needs of a tokenizer. */
export type SpanTokenizer = Pick<NativeTokenizer, 'encodeSpans'>;

/** Tokens that are written in one go: about a millisecond's work. */
const TOKENS_A_CHUNK = 2_048;

export interface TokenizeCall {
  readonly text: string;
  readonly addSpecialTokens: boolean;
}

const FIELDS: ReadonlySet<string> = new Set(['inputs', 'add_special_tokens']);

/** `POST /tokenize`: the tokens of a text under the base's tokenizer. */
export function registerTokenize(app: FastifyInstance, tokenizer: SpanTokenizer): void {
  app.post('/tokenize', { config: { doc: TOKENIZE } }, async ({ body }, reply) => {
    const { text, addSpecialTokens } = readTokenizeBody(requiredBody(body));
    const spans = await tokenizer.encodeSpans(text, addSpecialTokens).catch((thrown: unknown) => {
      throw toLoramuxError(thrown, 'ERR_TOKENIZER');
    });
    return reply.type('application/json').send(Readable.from(listInParts(spans)));
  });
}

/** Throws ERR_VALIDATION naming the field. */
export function readTokenizeBody(body: unknown): TokenizeCall {
  const fields = readObject('body', body);
  refuseUnknownFields(fields, FIELDS, '');
  return {
    text: readString('inputs', fields.inputs),
    addSpecialTokens: readBoolean('add_special_tokens', fields.add_special_tokens ?? undefined, true),
  };
}

/** The list of all tokens as JSON. A body of 2 MiB may have two million; others' tokens go out between its parts. */
async function* listInParts(spans: NativeTokenSpans): AsyncGenerator<string> {
  const count = spans.ids.length;
  yield '[';
  for (let from = 0; from < count; from += TOKENS_A_CHUNK) {
    if (from > 0) await otherWork();
    yield `${from > 0 ? ',' : ''}${tokensOf(spans, from, Math.min(from + TOKENS_A_CHUNK, count)).join(',')}`;
  }
  yield ']';
}

/** LoRAX's form of the tokens `from` … `to`: `text` as the vocabulary spells it, places in Unicode scalar values. */
function tokensOf({ ids, tokens, ends, offsets }: NativeTokenSpans, from: number, to: number): readonly string[] {
  return Array.from({ length: to - from }, (_, index) => {
    const at = from + index;
    const text = tokens.slice(at === 0 ? 0 : ends[at - 1], ends[at]);
    return JSON.stringify({ id: ids[at], text, start: offsets[2 * at], stop: offsets[2 * at + 1] });
  });
}
