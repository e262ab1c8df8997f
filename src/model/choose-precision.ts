import type { Precision } from '../core/model-manifest.js';
import { planModel } from './graph/model-plan.js';
import type { ModelSource } from './sources/model-source.js';

export interface PrecisionChoice {
  readonly precision: Precision;
  /** For people, in the log and in `GET /info`. */
  readonly reason: string;
}

/** What `auto` depends on besides the model. */
export interface Machine {
  /** The addon's kernel set; vector kernels when not given. */
  readonly instructionSet?: string;
  /** Memory this process may use, in bytes. */
  readonly memoryBytes: number;
}

/**
 * What `--precision auto` stands for. Only precisions whose perplexity stays within 1 % of float32's (docs/precision.md) are
 * taken: 8 bits for any model, 4 bits where the file holds blocks of 4 bits already. Vector kernels make them faster than
 * float32 at every batch size; the portable ones do not, so there float32 is taken where it fits half the memory.
 */
export function choosePrecision(source: ModelSource, { instructionSet, memoryBytes }: Machine): PrecisionChoice {
  const portable = instructionSet === 'portable';
  if (portable && planModel(source, 'f32').layout.totalBytes <= memoryBytes / 2)
    return { precision: 'f32', reason: 'this CPU has no vector kernels, and float32 fits half the memory' };
  const why = portable ? 'float32 does not fit half the memory' : `fastest with ${instructionSet ?? 'vector'} kernels`;
  return isHeldIn4Bits(source)
    ? { precision: 'w4', reason: `${why}; the file holds 4-bit blocks, which are kept` }
    : { precision: 'w8', reason: `${why}, within 1 % of float32's perplexity` };
}

/** Whether w4 would change no weight of the layers. */
function isHeldIn4Bits(source: ModelSource): boolean {
  const linears = planModel(source, 'w4').layers.flatMap((layer) => [
    layer.qkv,
    layer.output,
    layer.gateUp,
    layer.down,
  ]);
  return linears.every(({ cols, parts }) =>
    parts.every(({ module, rows }) => {
      const { encoding } = source.tensor(`${module}.weight`, [rows, cols]);
      return encoding.name === 'Q4_0' || encoding.name === 'Q4_1';
    }),
  );
}
