import { lookup } from 'node:dns/promises';
import { type IncomingMessage, request as plainRequest } from 'node:http';
import { request as tlsRequest } from 'node:https';
import { isIP } from 'node:net';
import type { HostRules } from '../../core/adapter-fetch.js';
import { plainUrl } from '../../core/adapter-source.js';
import { LoramuxError } from '../../core/errors.js';
import { AttemptFailure } from './fetch-errors.js';
import { hostOf, isPublicAddress, reachOf } from './host-rules.js';

const MAX_REDIRECTS = 5;
const REDIRECTS: readonly number[] = [301, 302, 303, 307, 308];

export interface ResolvedAddress {
  readonly address: string;
  readonly family: number;
}

/** All addresses of a name. */
export type Resolve = (host: string) => Promise<readonly ResolvedAddress[]>;

const systemResolve: Resolve = (host) => lookup(host, { all: true });

export interface GuardedRequest {
  readonly method: 'GET' | 'HEAD';
  readonly headers: Readonly<Record<string, string>>;
  /** Sent to the origin of the first URL only. */
  readonly token: string | null;
  readonly signal: AbortSignal;
}

function forbidden(url: URL, why: string): LoramuxError {
  return new LoramuxError('ERR_ADAPTER_FORBIDDEN', `${plainUrl(url.href)} may not be asked for adapters: ${why}`, {
    file: plainUrl(url.href),
  });
}

/** ERR_ADAPTER_FORBIDDEN for a URL whose host no rule names. */
export function requireListed(url: URL, rules: HostRules): 'any' | 'public' {
  const reach = reachOf(url, rules);
  if (reach === 'refused') {
    throw forbidden(url, `add ${url.host} to --adapter-hosts (or --adapter-private-hosts) if it should be`);
  }
  return reach;
}

/**
 * Requests over HTTP that reach listed hosts only. The addresses of a name are resolved once, checked, and are the ones
 * connected to: an answer that changes between check and use gains nothing. Redirects are checked like first requests.
 */
export class GuardedHttp {
  constructor(
    private readonly rules: HostRules,
    private readonly resolve: Resolve = systemResolve,
  ) {}

  /** The reply after redirects, its body unread. ERR_ADAPTER_FORBIDDEN, AttemptFailure, errors of the socket. */
  async request(start: URL, { method, headers, token, signal }: GuardedRequest): Promise<IncomingMessage> {
    let url = start;
    for (let hops = 0; ; hops += 1) {
      const bearer = token !== null && url.origin === start.origin ? { authorization: `Bearer ${token}` } : {};
      const response = await this.#send(url, method, { ...headers, ...bearer }, signal);
      const { statusCode = 0, headers: answer } = response;
      if (!REDIRECTS.includes(statusCode) || answer.location === undefined) return response;
      response.destroy();
      if (hops >= MAX_REDIRECTS) throw new AttemptFailure(`more than ${MAX_REDIRECTS} redirects`, 'failed', false);
      url = nextUrl(url, answer.location);
    }
  }

  async #send(
    url: URL,
    method: string,
    headers: Readonly<Record<string, string>>,
    signal: AbortSignal,
  ): Promise<IncomingMessage> {
    const addresses = await this.#addressesOf(url);
    signal.throwIfAborted();
    const send = url.protocol === 'https:' ? tlsRequest : plainRequest;
    return new Promise((resolve, reject) => {
      const options = {
        method,
        signal,
        // A connection of its own: none is shared with, or left over from, another check.
        agent: false,
        headers: { 'user-agent': 'loramux', 'accept-encoding': 'identity', ...headers },
        lookup: (
          _host: string,
          { all }: { all?: boolean },
          done: (error: null, address: string | ResolvedAddress[], family?: number) => void,
        ): void => {
          const [first] = addresses;
          if (all === true || first === undefined) done(null, [...addresses]);
          else done(null, first.address, first.family);
        },
      };
      send(url, options as Parameters<typeof plainRequest>[1], resolve)
        .once('error', reject)
        .end();
    });
  }

  async #addressesOf(url: URL): Promise<readonly ResolvedAddress[]> {
    const reach = requireListed(url, this.rules);
    const host = hostOf(url);
    const family = isIP(host);
    const all = family === 0 ? await this.resolve(host) : [{ address: host, family }];
    if (all.length === 0) throw new AttemptFailure(`${host} has no address`, 'failed', false);
    if (reach === 'any') return all;
    const open = all.filter(({ address }) => isPublicAddress(address));
    if (open.length > 0) return open;
    throw forbidden(
      url,
      `${host} is at ${all[0]?.address}, no public address: add HOST:PORT to --adapter-private-hosts if it should be`,
    );
  }
}

function nextUrl(from: URL, location: string): URL {
  const next = URL.canParse(location, from.href) ? new URL(location, from.href) : null;
  if (next === null || !/^https?:$/.test(next.protocol) || next.username !== '' || next.password !== '') {
    throw new AttemptFailure('it redirects to something that is no plain http or https address', 'failed', false);
  }
  if (from.protocol === 'https:' && next.protocol === 'http:') {
    throw new AttemptFailure('it redirects from https to http', 'failed', false);
  }
  return next;
}
