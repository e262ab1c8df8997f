import type { AdapterInfo, TierInfo } from './adapter.js';
import type { AdapterSource } from './adapter-source.js';

/** Operations of the admin API that the engine worker carries out. */
export type AdminCall =
  | { readonly op: 'list' }
  | { readonly op: 'get'; readonly name: string }
  | {
      readonly op: 'load';
      readonly name: string;
      readonly source: AdapterSource;
      readonly pin: boolean;
      readonly wait: boolean;
      readonly replace: boolean;
    }
  | { readonly op: 'unload'; readonly name: string; readonly force: boolean }
  | { readonly op: 'pin'; readonly name: string; readonly pinned: boolean }
  | { readonly op: 'state' };

/** What the engine worker is doing, for `GET /state` and the probes. */
export interface EngineState {
  readonly waiting: number;
  readonly waitingForAdapter: number;
  readonly running: number;
  readonly kvBlocks: { readonly total: number; readonly used: number; readonly blockSize: number };
  readonly tiers: readonly TierInfo[];
  readonly steps: number;
  /** Milliseconds since the last step ended; null before the first. */
  readonly lastStepAgeMs: number | null;
  readonly draining: boolean;
}

/** Reply to an AdminCall, by `op`. */
export interface AdminReplies {
  list: { readonly adapters: readonly AdapterInfo[]; readonly tiers: readonly TierInfo[] };
  get: AdapterInfo;
  load: {
    readonly outcome: 'created' | 'unchanged' | 'replaced' | 'accepted';
    readonly replaced: string | null;
    readonly adapter: AdapterInfo;
  };
  unload: { readonly drained: number; readonly rowsCut: number };
  pin: AdapterInfo;
  state: EngineState;
}

export type AdminReply = AdminReplies[keyof AdminReplies];
