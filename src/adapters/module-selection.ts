import type { Architecture } from '../core/model-manifest.js';
import { HEAD } from './base-modules.js';
import type { AdapterConfig, ModuleSelector } from './config.js';
import type { ModulePatterns } from './config-fields.js';

/** Full-match regular expressions, run natively: see `NativeBinding.firstMatches`. */
export type FirstMatches = (patterns: string[], names: string[]) => Promise<Int32Array>;

/** What PEFT targets when `target_modules` is null. */
const DEFAULT_TARGETS: Readonly<Record<Architecture, readonly string[]>> = {
  llama: ['q_proj', 'v_proj'],
  mistral: ['q_proj', 'v_proj'],
  qwen2: ['q_proj', 'v_proj'],
};

function namesMatch(entries: ReadonlySet<string>, module: string): boolean {
  if (entries.has(module)) return true;
  for (let dot = module.indexOf('.'); dot >= 0; dot = module.indexOf('.', dot + 1)) {
    if (entries.has(module.slice(dot + 1))) return true;
  }
  return false;
}

/** Whether `entry` names the module or one that contains it. */
function isWithin(module: string, entry: string): boolean {
  return `.${module}.`.includes(`.${entry}.`);
}

async function bySelector(
  selector: ModuleSelector,
  architecture: Architecture,
  modules: readonly string[],
  firstMatches: FirstMatches,
): Promise<Set<string>> {
  switch (selector.kind) {
    case 'all-linear':
      return new Set(modules.filter((module) => module !== HEAD && !module.endsWith('.embed_tokens')));
    case 'pattern': {
      const hits = await firstMatches([selector.pattern], [...modules]);
      return new Set(modules.filter((_, index) => hits[index] === 0));
    }
    default: {
      const entries = new Set(selector.kind === 'names' ? selector.names : DEFAULT_TARGETS[architecture]);
      return new Set(modules.filter((module) => namesMatch(entries, module)));
    }
  }
}

/** The layer a module lies in: its last numeric path segment with two segments before it and one after. */
function layerIndex(module: string): number | null {
  const segments = module.split('.');
  for (let at = segments.length - 2; at >= 2; at -= 1) {
    const segment = segments[at] ?? '';
    if (/^\d+$/.test(segment)) return Number(segment);
  }
  return null;
}

async function byLayer(
  layers: NonNullable<AdapterConfig['layers']>,
  modules: readonly string[],
  firstMatches: FirstMatches,
): Promise<Set<string>> {
  const indices = new Set(layers.indices);
  const hits =
    layers.patterns.length === 0
      ? null
      : await firstMatches(
          layers.patterns.map((pattern) => `.*\\.(?:${pattern})\\.[0-9]+\\..*`),
          [...modules],
        );
  return new Set(
    modules.filter((module, at) => {
      const index = layerIndex(module);
      return index !== null && indices.has(index) && (hits === null || (hits[at] ?? -1) >= 0);
    }),
  );
}

/**
 * The modules a configuration selects among `modules` (names without `base_model.model.`): excludes and what
 * `modules_to_save` replaces first, then targets; the layer filter does not touch a module that is listed by its exact
 * name.
 * Errors: those of `firstMatches`. Source: PEFT 0.21 `check_target_module_exists`.
 */
export async function selectModules(
  config: AdapterConfig,
  architecture: Architecture,
  modules: readonly string[],
  firstMatches: FirstMatches,
): Promise<Set<string>> {
  const selected = await bySelector(config.targets, architecture, modules, firstMatches);
  if (config.layers !== null) {
    const kept = await byLayer(config.layers, [...selected], firstMatches);
    const exact = new Set(config.targets.kind === 'names' ? config.targets.names : []);
    for (const module of selected) if (!kept.has(module) && !exact.has(module)) selected.delete(module);
  }
  if (config.excludes !== null) {
    for (const module of await bySelector(config.excludes, architecture, [...selected], firstMatches)) {
      selected.delete(module);
    }
  }
  for (const module of selected) {
    if (config.modulesToSave.some((entry) => isWithin(module, entry))) selected.delete(module);
  }
  return selected;
}

/**
 * The setting of each module: the value of the first pattern that matches the whole module name or its end after a
 * dot, else `fallback`. Source: PEFT 0.21 `get_pattern_key`.
 */
export async function resolvePatterns(
  patterns: ModulePatterns,
  fallback: number,
  modules: readonly string[],
  firstMatches: FirstMatches,
): Promise<ReadonlyMap<string, number>> {
  if (patterns.length === 0) return new Map(modules.map((module) => [module, fallback]));
  const hits = await firstMatches(
    patterns.map(([pattern]) => `(?:.*\\.)?(?:${pattern})`),
    [...modules],
  );
  return new Map(modules.map((module, at) => [module, patterns[hits[at] ?? -1]?.[1] ?? fallback]));
}
