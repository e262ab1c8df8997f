import { KeyStore, type KeyStoreOptions } from './auth/key-store.js';
import { configError } from './config/command-line.js';
import type { Config } from './config/config.js';
import { isLoopback } from './core/loopback.js';

type AccessSettings = Pick<Config, 'apiKeys' | 'auth' | 'host' | 'adminHost'>;

/**
 * The API keys that a server asks for; null = it asks for none. ERR_CONFIG when keys are needed and there are none:
 * what other machines reach is open only to those who say so.
 */
export function startKeys(settings: AccessSettings, log: KeyStoreOptions['log']): KeyStore | null {
  const { apiKeys, auth, host, adminHost } = settings;
  if (apiKeys !== null) {
    if (!auth) throw configError('expected --api-keys or --auth off, got both: leave one out', '--auth');
    return new KeyStore({ file: apiKeys, log });
  }
  const open = (
    [
      ['--host', host],
      ['--admin-host', adminHost],
    ] as const
  ).find(([, each]) => !isLoopback(each));
  if (auth && open !== undefined) {
    const [flag, address] = open;
    throw configError(
      `${flag} ${address} can be reached from other machines, so API keys are required: give --api-keys FILE ` +
        '(make keys with loramux key add), or --auth off where a gateway in front decides who may come',
      flag,
    );
  }
  return null;
}
