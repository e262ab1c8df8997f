import { LoramuxError } from '../core/errors.js';
import type { Precision } from '../core/model-manifest.js';
import { type LinearPlan, planModel } from './graph/model-plan.js';
import type { ModelSource } from './sources/model-source.js';

export interface PrecisionChoice {
  readonly precision: Precision;
  /** For people, in the log and in `GET /info`. */
  readonly reason: string;
}

/** What runs the graph: a CPU, or an NVIDIA GPU. */
export type DeviceKind = 'cpu' | 'cuda';

/** What `auto` depends on besides the model. */
export interface Machine {
  /** `cpu` when not given. */
  readonly device?: DeviceKind;
  /** The addon's kernel set; vector kernels when not given. */
  readonly instructionSet?: string;
  /** Memory this process may use, in bytes. */
  readonly memoryBytes: number;
}

/** Refuses what the device does not compute in: ERR_CONFIG names the precision and says what to take instead. */
export function requirePrecision(precision: Precision, device: DeviceKind): void {
  if (device === 'cpu' && (precision === 'f16' || precision === 'bf16')) {
    const why = 'expected f32, w8, w4 or auto with --device cpu: the CPU engine computes in float32';
    throw new LoramuxError('ERR_CONFIG', `--precision ${precision}: ${why}`, { field: '--precision' });
  }
}

/**
 * What `--precision auto` stands for. On a GPU: the file's own type of 16 bits, float16 where it has none. On a CPU, only precisions whose perplexity stays within 1 % of float32's (docs/precision.md) are
 * taken: 8 bits for any model, 4 bits where the file holds blocks of 4 bits already. Vector kernels make them faster than
 * float32 at every batch size; the portable ones do not, so there float32 is taken where it fits half the memory.
 */
export function choosePrecision(
  source: ModelSource,
  { device = 'cpu', instructionSet, memoryBytes }: Machine,
): PrecisionChoice {
  if (device === 'cuda') return everyMatrix(source, 'bf16', ['BF16']) ? BRAIN : HALF;
  const portable = instructionSet === 'portable';
  if (portable && planModel(source, 'f32').layout.totalBytes <= memoryBytes / 2)
    return { precision: 'f32', reason: 'this CPU has no vector kernels, and float32 fits half the memory' };
  const why = portable ? 'float32 does not fit half the memory' : `fastest with ${instructionSet ?? 'vector'} kernels`;
  return everyMatrix(source, 'w4', ['Q4_0', 'Q4_1'])
    ? { precision: 'w4', reason: `${why}; the file holds 4-bit blocks, which are kept` }
    : { precision: 'w8', reason: `${why}, within 1 % of float32's perplexity` };
}

const BRAIN: PrecisionChoice = { precision: 'bf16', reason: 'the type of the file, which a GPU computes in' };
const HALF: PrecisionChoice = {
  precision: 'f16',
  reason: 'what a GPU computes in fastest, and the file is not in bfloat16',
};

/** Whether the file holds all matrices of the layers in one of `encodings`, so that `precision` would change no weight of theirs. */
function everyMatrix(source: ModelSource, precision: Precision, encodings: readonly string[]): boolean {
  const held = ({ cols, parts }: LinearPlan) =>
    parts.every(({ module, rows }) =>
      encodings.includes(source.tensor(`${module}.weight`, [rows, cols]).encoding.name),
    );
  return planModel(source, precision).layers.every(({ qkv, output, gateUp, down }) =>
    [qkv, output, gateUp, down].every(held),
  );
}
