import { join } from 'node:path';
import { DEFAULT_MAX_FILES, DEFAULT_RETRY, DEFAULT_STALL_MS } from './adapters/sources/fetch-limits.js';
import type { Config } from './config/config.js';
import type { SourcesStart } from './messages/worker-messages.js';

/** What the settings say about adapters that are no directories. */
export function sourcesStart(config: Config): SourcesStart {
  const { adapterDiskBytes, adapterHosts, adapterPrivateHosts, hubEndpoint, hubToken, s3Endpoint } = config;
  return {
    directory: join(config.cacheDir, 'adapters'),
    capacityBytes: adapterDiskBytes,
    hubOffline: config.hubOffline,
    fetch: {
      limits: {
        maxBytes: Math.min(config.maxAdapterBytes, adapterDiskBytes),
        maxFiles: DEFAULT_MAX_FILES,
        totalMs: config.fetchTimeoutMs,
        stallMs: DEFAULT_STALL_MS,
        retry: DEFAULT_RETRY,
      },
      rules: { hosts: adapterHosts, privateHosts: adapterPrivateHosts },
      hub: { endpoint: hubEndpoint, token: hubToken },
      s3Endpoint,
    },
  };
}
