import type { MergeSource } from '../../core/adapter-source.js';
import { LoramuxError } from '../../core/errors.js';
import type { NativeAdapterExtras, NativeModulePlan } from '../../engine/binding.js';
import type { CheckedAdapter, ReadOptions } from '../read-adapter.js';
import { residentBytes } from '../resident-bytes.js';
import { commonText } from '../text/common-text.js';
import { planMerge } from './merge-plan.js';
import { requireSummable } from './summable.js';

/**
 * Merges the members of `source`, read in its order, into an adapter that is ready to be compiled like any other.
 * Errors: ERR_ADAPTER_INVALID for a member whose files are no longer those that its name stands for, that is more
 * than a delta, or does not fit the others.
 */
export async function mergeAdapters(
  source: MergeSource,
  members: readonly CheckedAdapter[],
  { backend, base }: ReadOptions,
): Promise<CheckedAdapter> {
  const [first] = members;
  if (first === undefined)
    throw new LoramuxError('ERR_ADAPTER_INVALID', 'expected at least one adapter to merge, got none');
  for (const [at, { name, digest }] of source.members.entries()) {
    const member = members[at];
    if (member?.digest !== digest) {
      throw new LoramuxError(
        'ERR_ADAPTER_INVALID',
        `expected the files of ${name} to have the digest ${digest}, which the name stands for, got ${member?.digest}: load ${name} again with replace`,
      );
    }
    requireSummable(name, member.plan.variant, '`merged_adapters`');
    requireLinearOnly(name, member.plan.extras);
    requireDense(name, member.plan.modules);
  }
  const names = source.members.map(({ name }) => name).join(', ');
  const texts = source.members.map(({ name }, at) => ({ name, text: members[at]?.text ?? null }));
  const text = commonText(texts, '`merged_adapters`');
  const { recipe, modules } = await planMerge(source, members, base, (patterns, modules) =>
    backend.firstMatches(patterns, modules),
  );
  const weights = await backend.mergeAdapterFiles(
    members.map((member) => member.weights),
    recipe,
  );
  const ranks = modules.map(({ rank }) => rank);
  const extras: NativeAdapterExtras = { biases: [], copies: [], norms: [] };
  const tensors = new Map(weights.tensors.map((tensor) => [tensor.name, tensor]));
  return {
    digest: source.location,
    file: `merge of ${names}`,
    weights,
    config: first.config,
    plan: {
      modules,
      extras,
      ranks: { min: Math.min(...ranks), max: Math.max(...ranks) },
      variant: ['lora'],
      invocation: null,
      moduleCounts: { inFile: modules.length, applied: modules.length },
      bytes: residentBytes({ modules, extras }, base, tensors),
      warnings: [],
    },
    text,
    baseModel: first.baseModel,
    warnings: [],
  };
}

/** Stored factors are merged tensor by tensor, so all must have one form. */
function requireDense(name: string, modules: readonly NativeModulePlan[]): void {
  if (modules.every(({ aBlocks, bBlocks }) => aBlocks === undefined && bBlocks === undefined)) return;
  throw new LoramuxError(
    'ERR_ADAPTER_INVALID',
    `expected dense factors in \`merged_adapters\`, but ${name} stores blocks of them: combine it by \`adapters\``,
    { field: 'merged_adapters' },
  );
}

/** Only factors of linear modules are merged; what the other variants bring was refused before. */
function requireLinearOnly(name: string, { embedding }: NativeAdapterExtras): void {
  if (embedding === undefined) return;
  throw new LoramuxError(
    'ERR_ADAPTER_INVALID',
    `expected adapters of linear modules in \`merged_adapters\`, but ${name} has one of the embedding: combine it by \`adapters\``,
    { field: 'merged_adapters' },
  );
}
