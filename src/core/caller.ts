/** Who sends a request, and what they may use. */
export interface Caller {
  /** Name of the API key, for logs; null when the server asks for none. */
  readonly name: string | null;
  /** True when generations under this adapter name (or the base's) are allowed. */
  mayUse(adapter: string): boolean;
}

/** Everyone, where no keys are configured. */
export const ANYONE: Caller = { name: null, mayUse: () => true };
