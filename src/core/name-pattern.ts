/** True when `name` is one that `pattern` describes: `*` stands for any run of characters, the rest for itself. */
export function matchesPattern(pattern: string, name: string): boolean {
  const [first = '', ...rest] = pattern.split('*');
  const last = rest.pop();
  if (last === undefined) return name === first;
  if (name.length < first.length + last.length || !name.startsWith(first) || !name.endsWith(last)) return false;
  const end = name.length - last.length;
  let at = first.length;
  // The earliest place for each part leaves most room for those after it.
  for (const part of rest) {
    const found = name.indexOf(part, at);
    if (found < 0 || found + part.length > end) return false;
    at = found + part.length;
  }
  return true;
}

/** True when one of `patterns` describes `name`; null describes every name. */
export function matchesAny(patterns: readonly string[] | null, name: string): boolean {
  return patterns?.some((pattern) => matchesPattern(pattern, name)) ?? true;
}
