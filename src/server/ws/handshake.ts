import type { IncomingHttpHeaders } from 'node:http';
import { LoramuxError } from '../../core/errors.js';
import { offeredProtocols } from '../authorization.js';

/** The subprotocol. */
export const PROTOCOL = 'loramux.v1';

/** Refuses clients that speak other protocols only. ERR_BAD_REQUEST. */
export function checkProtocols(headers: IncomingHttpHeaders): void {
  const offered = offeredProtocols(headers);
  if (offered.length === 0 || offered.includes(PROTOCOL)) return;
  const message = `expected the subprotocol ${PROTOCOL} or none, got ${offered.join(', ').slice(0, 200)}`;
  throw new LoramuxError('ERR_BAD_REQUEST', message, { field: 'sec-websocket-protocol' });
}

/** Refuses web pages of other sites than `allowed` and this server's own. Programs send no Origin. ERR_FORBIDDEN. */
export function checkOrigin({ origin, host }: IncomingHttpHeaders, allowed: readonly string[]): void {
  if (origin === undefined || origin === `http://${host}` || origin === `https://${host}`) return;
  if (allowed.includes(origin)) return;
  throw new LoramuxError('ERR_FORBIDDEN', `the site ${origin} may not open streams here: allow it by --stream-origins`);
}
