/** What generated text must look like, from its first character to its last. Plain data: it crosses threads. */
export type Constraint =
  /** Any JSON object. */
  | { readonly kind: 'json_object' }
  /** JSON text of a JSON Schema. */
  | { readonly kind: 'json_schema'; readonly schema: string }
  /** A regular expression that matches all of the text. */
  | { readonly kind: 'regex'; readonly pattern: string }
  /** A grammar in Lark's syntax. */
  | { readonly kind: 'grammar'; readonly grammar: string }
  /** One of these texts. */
  | { readonly kind: 'choice'; readonly choices: readonly string[] };
