const LOOPBACK = /^(?:localhost|127(?:\.\d{1,3}){3}|::1|\[::1\])$/i;

/** True when only this machine reaches a listener of this host, which may be an address or a name. */
export function isLoopback(host: string): boolean {
  return LOOPBACK.test(host);
}
