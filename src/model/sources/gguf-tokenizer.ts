import { invalidModel, unsupportedModel } from '../model-errors.js';
import type { GgufHeader } from './gguf-file.js';
import { Metadata } from './gguf-metadata.js';
import { PRE_TOKENIZERS } from './pre-tokenizers.js';
import { mergesFromScores } from './sentencepiece-merges.js';

/** Values of `tokenizer.ggml.token_type`. */
const TokenType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5 } as const;

interface Vocabulary {
  /** Entries of the file's lists: `tokens` and the padding after them. */
  readonly listed: number;
  readonly tokens: readonly string[];
  readonly types: Float64Array;
}

/**
 * Builds a `tokenizer.json` from GGUF metadata: byte-level BPE (`gpt2`) or SentencePiece-style BPE (`llama`). A whole
 * tokenizer.json stored in the file is preferred. ERR_MODEL_UNSUPPORTED for other models and unknown splittings.
 */
export function buildTokenizerJson(header: GgufHeader, path: string): string {
  const metadata = new Metadata(header.metadata, path);
  if (header.metadata.has('tokenizer.huggingface.json')) {
    const stored = metadata.string('tokenizer.huggingface.json');
    try {
      JSON.parse(stored);
    } catch {
      throw invalidModel(path, 'key tokenizer.huggingface.json: expected JSON', 'tokenizer.huggingface.json');
    }
    return stored;
  }
  const model = metadata.string('tokenizer.ggml.model');
  switch (model) {
    case 'gpt2':
      return JSON.stringify(byteLevelTokenizer(metadata, path));
    case 'llama':
      return JSON.stringify(sentencePieceTokenizer(metadata, path));
    default:
      throw unsupportedModel(path, 'tokenizer.ggml.model', model, 'gpt2, llama, or a tokenizer.huggingface.json key');
  }
}

function byteLevelTokenizer(metadata: Metadata, path: string): unknown {
  const pre = metadata.string('tokenizer.ggml.pre', 'default');
  const splitting = PRE_TOKENIZERS.get(pre);
  if (splitting === undefined)
    throw unsupportedModel(path, 'tokenizer.ggml.pre', pre, [...PRE_TOKENIZERS.keys()].join(', '));
  const vocabulary = readVocabulary(metadata, path);
  return {
    ...commonParts(vocabulary),
    normalizer: splitting.normalizer,
    pre_tokenizer: splitting.json,
    post_processor: specialFrame(metadata, path, vocabulary, splitting.addBos),
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      ...bpeModel(vocabulary, readMerges(metadata, path, vocabulary)),
      ignore_merges: splitting.ignoreMerges,
    },
  };
}

function sentencePieceTokenizer(metadata: Metadata, path: string): unknown {
  const vocabulary = readVocabulary(metadata, path);
  const scores = metadata.numbers('tokenizer.ggml.scores');
  if (scores?.length !== vocabulary.listed)
    throw invalidModel(
      path,
      `key tokenizer.ggml.scores: expected ${vocabulary.listed} scores, found ${scores?.length ?? 0}`,
      'tokenizer.ggml.scores',
    );
  const prefix = metadata.boolean('tokenizer.ggml.add_space_prefix', true);
  const unknown = tokenAt(metadata, path, vocabulary, 'tokenizer.ggml.unknown_token_id', 0).text;
  const strip = prefix ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : [];
  return {
    ...commonParts(vocabulary),
    normalizer: null,
    pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: prefix ? 'first' : 'never', split: false },
    post_processor: specialFrame(metadata, path, vocabulary, true),
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        ...strip,
      ],
    },
    model: {
      ...bpeModel(
        vocabulary,
        mergesFromScores(vocabulary.tokens, scores, (id) => vocabulary.types[id] === TokenType.normal),
      ),
      unk_token: unknown,
      fuse_unk: true,
      byte_fallback: true,
    },
  };
}

function readVocabulary(metadata: Metadata, path: string): Vocabulary {
  const tokens = metadata.strings('tokenizer.ggml.tokens') ?? [];
  if (tokens.length === 0) throw invalidModel(path, 'key tokenizer.ggml.tokens: expected a list of tokens, found none');
  const types = metadata.numbers('tokenizer.ggml.token_type') ?? new Float64Array(tokens.length).fill(TokenType.normal);
  if (types.length !== tokens.length)
    throw invalidModel(
      path,
      `key tokenizer.ggml.token_type: expected ${tokens.length} entries, one per token, found ${types.length}`,
      'tokenizer.ggml.token_type',
    );
  // Converters fill the list up to the rows of the head with unused tokens. They are none: a row without a token is
  // never sampled.
  const count = types.findLastIndex((type) => type !== TokenType.unused) + 1;
  if (count === 0) throw invalidModel(path, 'key tokenizer.ggml.token_type: expected tokens, found unused ones only');
  return { listed: tokens.length, tokens: tokens.slice(0, count), types: types.slice(0, count) };
}

function readMerges(metadata: Metadata, path: string, vocabulary: Vocabulary): [string, string][] {
  const known = new Set(vocabulary.tokens);
  return (metadata.strings('tokenizer.ggml.merges') ?? []).map((merge, index) => {
    // A piece may itself begin with a space, so the separator is looked for after the first character.
    const cut = merge.indexOf(' ', 1);
    const left = merge.slice(0, cut);
    const right = merge.slice(cut + 1);
    if (cut < 0 || !known.has(left) || !known.has(right) || !known.has(left + right))
      throw invalidModel(
        path,
        `key tokenizer.ggml.merges, entry ${index}: expected two tokens that join to a third, found ${JSON.stringify(merge)}`,
        'tokenizer.ggml.merges',
      );
    return [left, right];
  });
}

function bpeModel({ tokens }: Vocabulary, merges: readonly (readonly [string, string])[]) {
  return {
    type: 'BPE',
    dropout: null,
    unk_token: null as string | null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
    // fromEntries defines own properties, so even a token spelt `__proto__` is safe.
    vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
    merges,
  };
}

function commonParts({ tokens, types }: Vocabulary) {
  const added = tokens.flatMap((content, id) => {
    const type = types[id];
    const special = type === TokenType.control || type === TokenType.unknown;
    if (!special && type !== TokenType.userDefined) return [];
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }];
  });
  return { version: '1.0', truncation: null, padding: null, added_tokens: added };
}

/** The post-processor that puts BOS and EOS around a text, or null when neither is asked for. */
function specialFrame(metadata: Metadata, path: string, vocabulary: Vocabulary, addBosDefault: boolean): unknown {
  const addBos = metadata.boolean('tokenizer.ggml.add_bos_token', addBosDefault);
  const addEos = metadata.boolean('tokenizer.ggml.add_eos_token', false);
  if (!addBos && !addEos) return null;
  const bos = addBos ? [tokenAt(metadata, path, vocabulary, 'tokenizer.ggml.bos_token_id', 1)] : [];
  const eos = addEos ? [tokenAt(metadata, path, vocabulary, 'tokenizer.ggml.eos_token_id', 2)] : [];
  const around = (type: number, sequence: string) => [
    ...bos.map(({ text }) => ({ SpecialToken: { id: text, type_id: type } })),
    { Sequence: { id: sequence, type_id: type } },
    ...eos.map(({ text }) => ({ SpecialToken: { id: text, type_id: type } })),
  ];
  return {
    type: 'TemplateProcessing',
    single: around(0, 'A'),
    pair: [...around(0, 'A'), ...around(1, 'B')],
    special_tokens: Object.fromEntries(
      [...bos, ...eos].map(({ id, text }) => [text, { id: text, ids: [id], tokens: [text] }]),
    ),
  };
}

/** The token that `key` points at. The SentencePiece defaults apply to that model only; byte-level BPE has none. */
function tokenAt(metadata: Metadata, path: string, { tokens }: Vocabulary, key: string, sentencePieceDefault: number) {
  const isSentencePiece = metadata.string('tokenizer.ggml.model') === 'llama';
  const id = metadata.number(key, isSentencePiece ? sentencePieceDefault : undefined);
  const text = tokens[id];
  if (text === undefined)
    throw invalidModel(path, `key ${key}: expected an id below ${tokens.length}, found ${id}`, key);
  return { id, text };
}
