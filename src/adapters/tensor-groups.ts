import type { Offender } from '../core/errors.js';
import type { NativeTensorInfo } from '../engine/binding.js';
import type { TrainingMethod } from './config.js';
import { ELEMENT_BYTES } from './resident-bytes.js';
import { parseTensorName, type TensorPart } from './tensor-names.js';

/** The tensors of one module, by role. */
export type ModuleTensors = Readonly<Partial<Record<TensorPart, NativeTensorInfo>>>;

/** Any tensor of a module, for messages about the module as a whole. */
export function anyTensor(parts: ModuleTensors): string {
  return Object.values(parts)[0]?.name ?? '';
}

/**
 * Groups the file's tensors by module, refusing names that are not on the whitelist and roles filled twice. Tensors of
 * the methods in `trainedWith` are left out: they have no effect once training is over.
 */
export function groupTensors(
  tensors: readonly NativeTensorInfo[],
  offenders: Offender[],
  warnings: string[],
  trainedWith: readonly TrainingMethod[] = [],
): Map<string, ModuleTensors> {
  const groups = new Map<string, Partial<Record<TensorPart, NativeTensorInfo>>>();
  let repaired = 0;
  for (const tensor of tensors) {
    const name = parseTensorName(tensor.name);
    if (name.kind === 'refused') {
      offenders.push({ tensor: tensor.name, expected: name.expected, found: `${tensor.dtype} [${tensor.shape}]` });
      continue;
    }
    if (name.kind === 'training') {
      if (trainedWith.includes(name.method)) continue;
      offenders.push({ tensor: tensor.name, expected: `${name.method}_config beside it, or none`, found: 'null' });
      continue;
    }
    if (name.repaired) repaired += 1;
    const parts = groups.get(name.module) ?? {};
    groups.set(name.module, parts);
    const earlier = parts[name.part];
    if (earlier === undefined) parts[name.part] = tensor;
    else offenders.push({ tensor: tensor.name, expected: 'one tensor for this role', found: `also ${earlier.name}` });
  }
  if (repaired > 0) {
    warnings.push(
      `${repaired} tensor names carried ".default" or "_orig_mod." from an unfinished save; both were ignored`,
    );
  }
  const wide = tensors.filter(({ dtype }) => dtype === 'F64').length;
  if (wide > 0) warnings.push(`${wide} tensors are float64; they were narrowed to float32`);
  return groups;
}

/** The dtype and shape of one tensor; `why` says where the shape comes from. */
export function checkTensor(
  tensor: NativeTensorInfo,
  shape: readonly number[],
  why: string,
  offenders: Offender[],
): void {
  if (!Object.hasOwn(ELEMENT_BYTES, tensor.dtype)) {
    offenders.push({ tensor: tensor.name, expected: 'dtype F32, F16, BF16 or F64', found: tensor.dtype });
  }
  if (tensor.shape.length !== shape.length || tensor.shape.some((size, axis) => size !== shape[axis])) {
    offenders.push({
      tensor: tensor.name,
      expected: `shape [${shape.join(', ')}] (${why})`,
      found: `[${tensor.shape.join(', ')}]`,
    });
  }
}
