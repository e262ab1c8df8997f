import { DiskTier } from '../adapters/sources/disk-tier.js';
import type { RemoteSources } from '../adapters/sources/remote-sources.js';
import { SourceFetcher } from '../adapters/sources/source-fetcher.js';
import type { Telemetry } from '../core/telemetry.js';
import type { SourcesStart } from '../messages/worker-messages.js';
import { FetchWorkerClient } from './fetch-client.js';

/** The disk tier and the fetch worker behind it, which starts with the first fetch. */
export async function openSources(start: SourcesStart, emit: (fact: Telemetry) => void): Promise<RemoteSources> {
  const { directory, capacityBytes, hubOffline, fetch } = start;
  const disk = await DiskTier.open(directory, capacityBytes, (reason, bytes) =>
    emit({ kind: 'disk-evict', reason, bytes }),
  );
  return new SourceFetcher({ disk, backend: new FetchWorkerClient(fetch), rules: fetch.rules, hubOffline, emit });
}
