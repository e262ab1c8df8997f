import { LoramuxError } from '../core/errors.js';
import type { DecoderConfig, KvDtype } from '../core/model-manifest.js';

/** Tokens per KV block, and float32 lanes of a vector on a CPU: what the native pages are made of. */
const BLOCK_SIZE = 16;
/** Beyond them a slot's number leaves 32 bits. */
const MOST_BLOCKS = 2 ** 26;

/** How many KV blocks the engine gets and how long a sequence may become. */
export interface EngineSizing {
  readonly kvBlocks: number;
  readonly maxModelLen: number;
}

/** Bytes of one KV block over all layers on a GPU: keys and values [slot, dim] of the activations' type. */
export function deviceBlockBytes(config: DecoderConfig, elementBytes: number): number {
  return config.layers * config.kvHeads * BLOCK_SIZE * 2 * config.headDim * elementBytes;
}

/** The same on a CPU: keys [dim, slot] and values [slot, dim padded to whole vectors]. */
export function hostBlockBytes(config: DecoderConfig, kvDtype: KvDtype): number {
  const paddedDim = Math.ceil(config.headDim / BLOCK_SIZE) * BLOCK_SIZE;
  return config.layers * config.kvHeads * BLOCK_SIZE * (config.headDim + paddedDim) * (kvDtype === 'f32' ? 4 : 2);
}

/** Of a GPU's pages, what a length chosen by default leaves adapters for certain. */
const ADAPTER_SHARE = 0.2;

/**
 * How many pages of `pageBytes`, a KV block's, a GPU's budget is, and how long a sequence may become. Adapters may take all
 * pages but those that the longest sequence needs, so at least one stays for them.
 * Errors: ERR_CONFIG when the length asked for exceeds the model or leaves adapters nothing.
 */
export function sizePages(
  config: DecoderConfig,
  pageBytes: number,
  bytes: number,
  maxModelLen: number | null,
): EngineSizing {
  const pages = Math.min(Math.floor(bytes / pageBytes), MOST_BLOCKS);
  const kept = maxModelLen === null ? Math.ceil(pages * ADAPTER_SHARE) : 1;
  const { maxModelLen: length } = sizeEngine(
    config,
    pageBytes,
    (pages - kept) * pageBytes,
    maxModelLen,
    '--gpu-memory',
  );
  return { kvBlocks: pages, maxModelLen: length };
}

/**
 * Fits block count and model length to the KV budget. A length that was asked for must fit; otherwise the model's own
 * length is cut to what the budget holds.
 * @param blockBytes of one KV block.
 * @param flag what the operator raises the budget by.
 * Errors: ERR_CONFIG when not even one block fits, or the length asked for exceeds the model or the budget.
 */
export function sizeEngine(
  config: DecoderConfig,
  blockBytes: number,
  kvMemoryBytes: number,
  maxModelLen: number | null,
  flag = '--kv-memory',
): EngineSizing {
  const kvBlocks = Math.min(Math.floor(kvMemoryBytes / blockBytes), MOST_BLOCKS);
  if (kvBlocks < 1) {
    throw new LoramuxError(
      'ERR_CONFIG',
      `expected ${flag} to leave the KV cache one block of ${blockBytes} bytes at least, got ${kvMemoryBytes} bytes: raise it`,
    );
  }
  const room = kvBlocks * BLOCK_SIZE;
  if (maxModelLen === null) return { kvBlocks, maxModelLen: Math.min(config.maxPositions, room) };
  if (maxModelLen > config.maxPositions) {
    throw new LoramuxError(
      'ERR_CONFIG',
      `expected --max-model-len of at most ${config.maxPositions}, what the model was made for, got ${maxModelLen}: lower it`,
    );
  }
  if (maxModelLen > room) {
    const needed = Math.ceil(maxModelLen / BLOCK_SIZE) * blockBytes;
    throw new LoramuxError(
      'ERR_CONFIG',
      `--max-model-len ${maxModelLen} needs ${needed} bytes of KV memory, ${flag} leaves it ${kvMemoryBytes}: raise it or shorten the length`,
    );
  }
  return { kvBlocks, maxModelLen };
}
