/** How byte-level BPE splits text before merging, by the name that GGUF stores under `tokenizer.ggml.pre`. */
export interface PreTokenizer {
  /** JSON for `pre_tokenizer` of a tokenizer.json. */
  readonly json: unknown;
  readonly normalizer: unknown;
  /** Whole words of the vocabulary skip the merges. */
  readonly ignoreMerges: boolean;
  /** Whether BOS goes first when the file does not say. */
  readonly addBos: boolean;
}

const GPT2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
// Contractions are spelt as character classes: not every regex engine has inline flags.
const CONTRACTION = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]";
const SPACES = String.raw`\s*[\r\n]+|\s+(?!\S)|\s+`;
const PUNCTUATION = String.raw`[\p{P}\$\+<=>\^~\|]+`;
const THREE_DIGITS = '[0-9][0-9][0-9]';

function llama3(digits: string): string {
  return String.raw`(?:${CONTRACTION})|[^\r\n\p{L}\p{N}]?\p{L}+|${digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|${SPACES}`;
}

function tekken(suffix: string, digits: string): string {
  const upper = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`;
  const lower = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`;
  const lead = String.raw`[^\r\n\p{L}\p{N}]?`;
  return String.raw`${lead}${upper}*${lower}+${suffix}|${lead}${upper}+${lower}*${suffix}|${digits}| ?[^\s\p{L}\p{N}]+[\r\n/]*|${SPACES}`;
}

function splits(...patterns: readonly string[]): unknown {
  return {
    type: 'Sequence',
    pretokenizers: [
      ...patterns.map((pattern) => ({
        type: 'Split',
        pattern: { Regex: pattern },
        behavior: 'Isolated',
        invert: false,
      })),
      { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
    ],
  };
}

function family(names: readonly string[], json: unknown, options: Partial<Omit<PreTokenizer, 'json'>> = {}) {
  const entry: PreTokenizer = { json, normalizer: null, ignoreMerges: false, addBos: false, ...options };
  return names.map((name) => [name, entry] as const);
}

const DIGITS_THEN_WORDS = {
  type: 'Sequence',
  pretokenizers: [
    { type: 'Digits', individual_digits: true },
    { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
  ],
};
const SUFFIX = `(?:${CONTRACTION})?`;

/** Splitting by `tokenizer.ggml.pre`; names that are absent here are refused. */
export const PRE_TOKENIZERS: ReadonlyMap<string, PreTokenizer> = new Map([
  ...family(['smollm', 'starcoder', 'refact', 'command-r', 'codeshell', 'exaone', 'minerva-7b'], DIGITS_THEN_WORDS),
  ...family(['gpt-2', 'phi-2', 'olmo', 'mpt', 'jais', 'exaone4'], splits(GPT2)),
  ...family(['llama3', 'llama-v3', 'llama-bpe', 'falcon3', 'pixtral', 'lfm2'], splits(llama3(String.raw`\p{N}{1,3}`)), {
    ignoreMerges: true,
    addBos: true,
  }),
  ...family(['dbrx', 'smaug-bpe'], splits(llama3(String.raw`\p{N}{1,3}`))),
  ...family(['qwen2'], splits(llama3(String.raw`\p{N}`)), { normalizer: { type: 'NFC' } }),
  ...family(['deepseek-r1-qwen', 'stablelm2', 'megrez', 'hunyuan'], splits(llama3(String.raw`\p{N}`))),
  ...family(['tekken'], splits(tekken('', String.raw`\p{N}`)), { ignoreMerges: true, addBos: true }),
  ...family(['gpt-4o', 'llama4', 'kanana2'], splits(tekken(SUFFIX, String.raw`\p{N}{1,3}`))),
  ...family(['falcon'], splits(PUNCTUATION.replace('~', '~`'), GPT2, THREE_DIGITS)),
  ...family(['default'], splits(PUNCTUATION, GPT2, String.raw`\p{N}+`, THREE_DIGITS)),
]);
