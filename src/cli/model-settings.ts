import type { Config } from '../config/config.js';
import type { HubOptions } from '../model/fetch/hub-repository.js';

/** Settings that decide where the base model comes from. */
export const MODEL_SETTINGS = ['model', 'cacheDir', 'hubEndpoint', 'hubToken', 'hubOffline'] as const;

/** How the hub is reached. */
export function hubOptions({
  hubEndpoint,
  hubToken,
  hubOffline,
}: Pick<Config, 'hubEndpoint' | 'hubToken' | 'hubOffline'>): HubOptions {
  return {
    offline: hubOffline,
    ...(hubEndpoint === null ? {} : { endpoint: hubEndpoint }),
    ...(hubToken === null ? {} : { token: hubToken }),
  };
}
