import type { IncomingHttpHeaders } from 'node:http';

/** Before an API key in base64url: browsers can send no header with a WebSocket. Never echoed, never logged. */
const BEARER = 'loramux.bearer.';

/** Subprotocols that a WebSocket client offers, those that hold a key left out. */
export function offeredProtocols(headers: IncomingHttpHeaders): readonly string[] {
  return offers(headers).filter((each) => !each.startsWith(BEARER));
}

/** `Bearer KEY` as the header says it or, of a WebSocket, an offered subprotocol; undefined when neither does. */
export function authorizationOf(headers: IncomingHttpHeaders): string | undefined {
  const { authorization, upgrade } = headers;
  if (authorization !== undefined || upgrade?.toLowerCase() !== 'websocket') return authorization;
  const offer = offers(headers).find((each) => each.startsWith(BEARER));
  return offer === undefined ? undefined : `Bearer ${Buffer.from(offer.slice(BEARER.length), 'base64url').toString()}`;
}

function offers(headers: IncomingHttpHeaders): readonly string[] {
  const offered = headers['sec-websocket-protocol'] ?? '';
  return offered.split(',').flatMap((each) => (each.trim() === '' ? [] : [each.trim()]));
}
