import type { FastifyInstance } from 'fastify';
import { type KeyRing, requireScope } from '../../auth/key-ring.js';
import type { Scope } from '../../auth/scopes.js';
import { ANYONE, type Caller } from '../../core/caller.js';
import { authorizationOf } from '../authorization.js';

/** What a route asks for: nothing, any valid key, or a key with a scope. */
export type Access = 'open' | 'key' | Scope;

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Without it the listener's own rule for the method holds; nothing is open by omission. */
    access?: Access;
  }
  interface FastifyRequest {
    /** Set before any other part of the app sees the request. Every generation goes in this name. */
    caller: Caller;
  }
}

/** Who may use an app. */
export interface AccessRules {
  /** null = no keys are configured: everything is open to everyone. */
  readonly keys: KeyRing | null;
  /** `/metrics` asks for no key. */
  readonly publicMetrics: boolean;
}

/** Everything is open to everyone. */
export const NO_KEYS: AccessRules = { keys: null, publicMetrics: false };

/** What a route asks for that does not say it itself, unknown paths included. */
export type AccessByMethod = (method: string) => Access;

/** The public listener: reading takes any key, work takes one that may generate. */
export const PUBLIC_ACCESS: AccessByMethod = (method) => (isReading(method) ? 'key' : 'infer');

/** The admin listener. */
export const ADMIN_ACCESS: AccessByMethod = (method) => (isReading(method) ? 'admin:read' : 'admin:write');

function isReading(method: string): boolean {
  return method === 'GET' || method === 'HEAD';
}

/** Every request is anyone's until `registerAccess` knows better; those that are answered before that stay so. */
export function registerCallers(app: FastifyInstance): void {
  app.decorateRequest('caller');
  app.addHook('onRequest', async (request) => {
    request.caller = ANYONE;
  });
}

/** Names the caller of every request, before its body is read. ERR_UNAUTHORIZED, ERR_FORBIDDEN. */
export function registerAccess(app: FastifyInstance, rules: AccessRules, byMethod: AccessByMethod): void {
  const { keys, publicMetrics } = rules;
  app.addHook('onRequest', async (request) => {
    if (keys === null) return;
    const access = request.routeOptions.config?.access ?? byMethod(request.method);
    if (access === 'open' || (access === 'metrics' && publicMetrics)) return;
    const holder = keys.authenticate(authorizationOf(request.headers));
    request.caller = holder.caller;
    if (access !== 'key') requireScope(holder, access);
  });
}
