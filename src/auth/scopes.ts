import { BASE_NAME } from '../core/names.js';

/** What a route may ask of a key. `infer` is met by a key that may use any adapter at all, or the base. */
export type Scope = 'infer' | 'metrics' | 'admin:read' | 'admin:write';

/** What one key is for. */
export interface Grants {
  /** Patterns of adapter names, `__base__` among them. */
  readonly adapters: readonly string[];
  readonly metrics: boolean;
  readonly admin: ReadonlySet<'read' | 'write'>;
}

export const SCOPE_FORMS = 'infer:PATTERN, metrics, admin:read, admin:write or admin:*';

/** Characters of adapter names, and the wildcard. */
const PATTERN = /^[\w.*/-]{1,257}$/;

/** True when `text` is a scope as files and commands spell it. */
export function isScope(text: string): boolean {
  if (text.startsWith('infer:')) return PATTERN.test(text.slice('infer:'.length));
  return text === 'metrics' || /^admin:(?:read|write|\*)$/.test(text);
}

/** What a list of scopes allows. Each is one that `isScope` accepts. */
export function grantsOf(scopes: readonly string[]): Grants {
  const adapters = scopes.flatMap((scope) => (scope.startsWith('infer:') ? [scope.slice('infer:'.length)] : []));
  const admin = new Set<'read' | 'write'>();
  for (const scope of scopes) {
    if (scope === 'admin:read' || scope === 'admin:*') admin.add('read');
    if (scope === 'admin:write' || scope === 'admin:*') admin.add('write');
  }
  return { adapters, metrics: scopes.includes('metrics'), admin };
}

/** True when a key for `grants` opens a route that asks for `scope`. Whoever may read the engine's state may read its metrics. */
export function meets({ adapters, metrics, admin }: Grants, scope: Scope): boolean {
  switch (scope) {
    case 'infer':
      return adapters.length > 0;
    case 'metrics':
      return metrics || admin.has('read');
    case 'admin:read':
      return admin.has('read');
    case 'admin:write':
      return admin.has('write');
  }
}

/** A scope in words of the file, for messages. */
export function spellingOf(scope: Scope): string {
  return scope === 'infer' ? `infer:PATTERN (infer:${BASE_NAME} for the base)` : scope;
}
