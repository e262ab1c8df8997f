import type { BaseNames } from './model-name.js';

/** Names that stand for the base: those that the operator gave, then the model's own. */
export function baseNames(servedNames: readonly string[], ownName: string): BaseNames {
  const [first = ownName, ...others] = servedNames;
  return [first, ...others, ownName];
}
