import type { Offender } from '../core/errors.js';
import type { NativeBiasPlan } from '../engine/binding.js';
import type { AdapterConfig } from './config.js';
import type { ModulePlaces } from './plan-modules.js';
import { checkTensor, type ModuleTensors } from './tensor-groups.js';

/**
 * Places the file's biases of base modules: with `bias: "all"` of any linear module, with `"lora_only"` of targeted
 * ones. PEFT would load them into the base; here they stand for the base's own in rows of the adapter alone.
 */
export function planBiases(
  { bias }: AdapterConfig,
  selected: ReadonlySet<string>,
  groups: ReadonlyMap<string, ModuleTensors>,
  places: ModulePlaces,
  offenders: Offender[],
  warnings: string[],
): NativeBiasPlan[] {
  const planned: NativeBiasPlan[] = [];
  for (const [module, parts] of groups) {
    const tensor = parts.bias;
    const place = places.get(module);
    if (tensor === undefined || place === undefined) continue;
    if (bias === 'none' || (bias === 'lora_only' && !selected.has(module))) {
      const expected =
        bias === 'none' ? 'no bias of the base, or bias: "all"' : 'biases of targeted modules (bias is "lora_only")';
      offenders.push({ tensor: tensor.name, expected, found: `a bias of ${module}` });
    }
    checkTensor(tensor, [place.outFeatures], 'out_features', offenders);
    planned.push({ site: place.site.id, module: place.index, tensor: tensor.name });
  }
  if (bias === 'none') return planned;
  const kept = [...places].filter(
    ([module, place]) =>
      place.hasBias && groups.get(module)?.bias === undefined && (bias === 'all' || selected.has(module)),
  );
  if (kept.length > 0) {
    const [first] = kept[0] ?? [''];
    warnings.push(
      `bias is "${bias}", but the file lacks the biases of ${kept.length} modules (first ${first}): the base's are kept`,
    );
  }
  return planned.sort((left, right) => left.site - right.site || left.module - right.module);
}
