/** Names under which `tokenizer_config.json` and chat templates know a tokenizer's special tokens. */
export const SPECIAL_TOKEN_NAMES = [
  'bos_token',
  'eos_token',
  'unk_token',
  'sep_token',
  'pad_token',
  'cls_token',
  'mask_token',
] as const;

/** Texts of a tokenizer's special tokens, by name; those it lacks are absent. */
export type SpecialTokens = Readonly<Partial<Record<(typeof SPECIAL_TOKEN_NAMES)[number], string>>>;

/** The special tokens that a parsed `tokenizer_config.json` or `special_tokens_map.json` names, as text or as objects. */
export function specialTokensOf(config: Readonly<Record<string, unknown>>): SpecialTokens {
  const found: Partial<Record<string, string>> = {};
  for (const name of SPECIAL_TOKEN_NAMES) {
    const raw = config[name];
    const text = typeof raw === 'object' && raw !== null ? (raw as { content?: unknown }).content : raw;
    if (typeof text === 'string') found[name] = text;
  }
  return found;
}

/**
 * The chat template of a parsed `tokenizer_config.json`: text, or of a list of named ones that called `default`. Null
 * when it names none; undefined when it names some, but none that can be the default.
 */
export function configuredTemplate(config: Readonly<Record<string, unknown>>): string | null | undefined {
  const template = config.chat_template ?? null;
  if (template === null || typeof template === 'string') return template;
  const named: readonly unknown[] = Array.isArray(template) ? template : [];
  for (const each of named) {
    const { name, template: text } = (each ?? {}) as { name?: unknown; template?: unknown };
    if (name === 'default' && typeof text === 'string') return text;
  }
  return undefined;
}
