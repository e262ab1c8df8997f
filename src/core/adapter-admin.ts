import type { AdapterInfo, TierInfo } from './adapter.js';
import type { FileSource } from './adapter-source.js';

/** Operations of the admin API that the engine worker carries out. */
export type AdminCall =
  | { readonly op: 'list' }
  | { readonly op: 'get'; readonly name: string }
  | {
      readonly op: 'load';
      readonly name: string;
      readonly source: FileSource;
      readonly pin: boolean;
      readonly wait: boolean;
      readonly replace: boolean;
    }
  /** All of a load but keeping it. */
  | { readonly op: 'check'; readonly name: string; readonly source: FileSource; readonly replace: boolean }
  | { readonly op: 'unload'; readonly name: string; readonly force: boolean }
  | { readonly op: 'pin'; readonly name: string; readonly pinned: boolean }
  | { readonly op: 'aliases' }
  | { readonly op: 'alias'; readonly name: string; readonly target: AliasTarget }
  | { readonly op: 'unalias'; readonly name: string }
  | { readonly op: 'state' };

/** What an alias is to stand for: a digest, or the one that an adapter has now. */
export type AliasTarget = { readonly digest: string } | { readonly adapter: string };

/** A second name, for one digest. */
export interface AliasInfo {
  readonly name: string;
  readonly digest: string;
  /** The adapter that has this digest; null when none has it any more, and then requests by the alias are refused. */
  readonly adapter: string | null;
}

/** What the engine worker is doing, for `GET /state` and the probes. */
export interface EngineState {
  readonly waiting: number;
  readonly waitingForAdapter: number;
  readonly running: number;
  readonly kvBlocks: {
    readonly total: number;
    readonly used: number;
    /** Used by no request, kept by the prefix cache until a block is needed. */
    readonly cached: number;
    /** Blocks' memory that adapters have, or are about to: on a GPU both share pages. */
    readonly adapters: number;
    readonly blockSize: number;
  };
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
  check: AdapterInfo;
  unload: { readonly drained: number; readonly rowsCut: number };
  pin: AdapterInfo;
  aliases: { readonly aliases: readonly AliasInfo[] };
  alias: {
    /** Digest that the alias stood for before; null when it is new. */
    readonly replaced: string | null;
    readonly alias: AliasInfo;
  };
  unalias: AliasInfo;
  state: EngineState;
}

export type AdminReply = AdminReplies[keyof AdminReplies];
