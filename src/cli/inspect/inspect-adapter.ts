import {
  AdapterRoots,
  openAdapterDirectory,
  readConfigFile,
  readTextFiles,
  WEIGHTS_FILE,
} from '../../adapters/adapter-directory.js';
import { parseAdapterConfig } from '../../adapters/config.js';
import { adapterDigest } from '../../adapters/digest.js';
import { type AdapterPlan, planAdapter } from '../../adapters/plan.js';
import { parseTensorName } from '../../adapters/tensor-names.js';
import { readText } from '../../adapters/text/read-text.js';
import { TokenizerFile } from '../../adapters/text/tokenizer-file.js';
import type { AdapterVariant } from '../../core/adapter.js';
import { type AdapterTextInfo, type ReadText, type TextFile, textBytes, textInfo } from '../../core/adapter-text.js';
import { type Offender, toLoramuxError } from '../../core/errors.js';
import type { NativeBinding, NativeTensorInfo } from '../../engine/binding.js';
import type { ModelDescription } from '../../model/describe-model.js';
import { findNonFinite } from './non-finite.js';

/** Modules of one kind, such as all `q_proj`. */
export interface ModuleGroup {
  readonly type: string;
  /** Ascending; empty for modules outside of the layers. */
  readonly layers: readonly number[];
  /** Distinct ranks, ascending. */
  readonly ranks: readonly number[];
}

/** What is known of an adapter without an engine. Null = could not be found out, `offenders` say why. */
export interface InspectReport {
  readonly directory: string;
  readonly digest: string | null;
  readonly dtypes: readonly string[];
  /** The base that the configuration names. */
  readonly baseModel: string | null;
  readonly modules: readonly ModuleGroup[];
  readonly variant: readonly AdapterVariant[] | null;
  readonly ranks: AdapterPlan['ranks'] | null;
  readonly moduleCounts: AdapterPlan['moduleCounts'] | null;
  /** While it is resident. */
  readonly bytes: number | null;
  readonly text: AdapterTextInfo | null;
  /** The base that it was held against. */
  readonly base: string;
  readonly fits: boolean;
  readonly offenders: readonly Offender[];
  readonly warnings: readonly string[];
}

export interface InspectOptions {
  readonly directory: string;
  readonly base: ModelDescription;
  readonly binding: Pick<NativeBinding, 'openAdapterFile' | 'firstMatches' | 'Tokenizer'>;
  /** Longest safetensors file that is opened. */
  readonly maxFileBytes: number;
}

/**
 * Reads an adapter as a load would, up to what needs an engine. What a load refuses becomes offenders, of as many
 * stages as can be reached. Errors: ERR_ADAPTER_NOT_FOUND without the directory, ERR_ADAPTER_SOURCE when it cannot be
 * read.
 */
export async function inspectAdapter({
  directory,
  base,
  binding,
  maxFileBytes,
}: InspectOptions): Promise<InspectReport> {
  const offenders: Offender[] = [];
  // Links inside the directory may lead anywhere that the caller can read: there is nobody to be protected from.
  const roots = new AdapterRoots([], [directory, '/']);
  const files = await refusing(offenders, openAdapterDirectory(directory, roots));
  const configFile = files === null ? null : await refusing(offenders, readConfigFile(files));
  const config =
    files === null || configFile === null
      ? null
      : await refusing(
          offenders,
          Promise.resolve().then(() => parseAdapterConfig(configFile.bytes, files.configPath)),
        );
  const weights =
    files === null ? null : await refusing(offenders, binding.openAdapterFile(files.weightsPath, maxFileBytes));
  const textFiles = files === null ? null : await refusing(offenders, readTextFiles(files));
  if (files !== null && weights !== null) offenders.push(...(await findNonFinite(files.weightsPath)));
  const plan =
    files === null || config === null || weights === null
      ? null
      : await refusing(
          offenders,
          planAdapter({
            file: files.weightsPath,
            configFile: files.configPath,
            tensors: weights.tensors,
            config,
            base,
            firstMatches: (patterns, names) => binding.firstMatches(patterns, names),
          }),
        );
  const read = textFiles === null ? null : await refusing(offenders, readTexts(directory, textFiles, base, binding));
  const tensors = weights?.tensors ?? [];
  const digest =
    configFile === null || weights === null || textFiles === null
      ? null
      : adapterDigest([
          configFile.digested,
          { path: WEIGHTS_FILE, bytes: weights.bytes, sha256: weights.sha256 },
          ...textFiles,
        ]);
  return {
    directory: files?.directory ?? directory,
    digest,
    dtypes: [...new Set(tensors.map(({ dtype }) => dtype))].sort(),
    baseModel: config?.baseModel ?? null,
    modules: groupModules(tensors),
    variant: plan?.variant ?? null,
    ranks: plan?.ranks ?? null,
    moduleCounts: plan?.moduleCounts ?? null,
    bytes: plan === null || read === null ? null : plan.bytes + textBytes(read.text),
    text: read === null ? null : textInfo(read.text),
    base: base.modelId,
    fits: offenders.length === 0,
    offenders,
    warnings: [...(plan?.warnings ?? []), ...(read?.warnings ?? [])],
  };
}

async function readTexts(
  directory: string,
  files: readonly TextFile[],
  { chatTemplate, specialTokens, eosTokenIds, tokenizerJson, config }: ModelDescription,
  binding: InspectOptions['binding'],
): Promise<ReadText> {
  if (files.length === 0) return { text: null, warnings: [] };
  const tokenizer = new TokenizerFile(new TextDecoder().decode(tokenizerJson));
  const room = { vocabSize: config.vocabSize, tokenCount: tokenizer.size };
  const base = { tokenizer, template: chatTemplate, specialTokens, eosTokenIds, ...room };
  return readText(directory, files, base, (json) => binding.Tokenizer.fromJson(json));
}

/** Null for what is refused, its reasons among the offenders. */
async function refusing<T>(offenders: Offender[], work: Promise<T>): Promise<T | null> {
  try {
    return await work;
  } catch (thrown) {
    const error = toLoramuxError(thrown);
    if (error.code !== 'ERR_ADAPTER_INVALID' && error.code !== 'ERR_ADAPTER_TOO_LARGE') throw error;
    const whole = { expected: 'an adapter that can be served', found: error.message };
    offenders.push(...(error.details?.offenders ?? [whole]));
    return null;
  }
}

const LAYER = /^(.*\.)?layers\.(\d+)\.(?:.*\.)?([^.]+)$/;

/** Modules by kind in the order of the file, with their layers and ranks. */
function groupModules(tensors: readonly NativeTensorInfo[]): ModuleGroup[] {
  const groups = new Map<string, { layers: Set<number>; ranks: Set<number> }>();
  for (const { name, shape } of tensors) {
    const parsed = parseTensorName(name);
    if (parsed.kind !== 'part') continue;
    const [, , layer, inLayer] = LAYER.exec(parsed.module) ?? [];
    const type = inLayer ?? parsed.module;
    const group = groups.get(type) ?? { layers: new Set(), ranks: new Set() };
    groups.set(type, group);
    if (layer !== undefined) group.layers.add(Number(layer));
    if (parsed.part === 'a') group.ranks.add(shape[0] ?? 0);
  }
  const ascending = (values: ReadonlySet<number>): number[] => [...values].sort((a, b) => a - b);
  return [...groups].map(([type, { layers, ranks }]) => ({ type, layers: ascending(layers), ranks: ascending(ranks) }));
}
