import { LoramuxError } from '../core/errors.js';
import type { DecoderConfig, KvDtype } from '../core/model-manifest.js';

/** Tokens per KV block, and float32 lanes of a vector on a CPU: what the native pages are made of. */
const BLOCK_SIZE = 16;

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

/**
 * Fits block count and model length to the KV budget. A length that was asked for must fit; otherwise the model's own
 * length is cut to what the budget holds.
 * @param blockBytes of one KV block.
 * Errors: ERR_CONFIG when not even one block fits, or the length asked for exceeds the model or the budget.
 */
export function sizeEngine(
  config: DecoderConfig,
  blockBytes: number,
  kvMemoryBytes: number,
  maxModelLen: number | null,
): EngineSizing {
  const kvBlocks = Math.min(Math.floor(kvMemoryBytes / blockBytes), 2 ** 26);
  if (kvBlocks < 1) {
    throw new LoramuxError(
      'ERR_CONFIG',
      `expected --kv-memory to hold at least one block of ${blockBytes} bytes, got ${kvMemoryBytes}: raise it`,
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
      `--max-model-len ${maxModelLen} needs ${needed} bytes of KV memory, --kv-memory is ${kvMemoryBytes}: raise it or shorten the length`,
    );
  }
  return { kvBlocks, maxModelLen };
}
