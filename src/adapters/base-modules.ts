import type { AdapterDtype } from '../core/adapter.js';
import type { ModelManifest } from '../core/model-manifest.js';

/** The parts of a manifest that decide whether an adapter fits, and how the engine will keep its factors. */
export type BaseModel = Pick<ModelManifest, 'modelId' | 'sites' | 'embedding' | 'norms'> & {
  readonly config: Pick<ModelManifest['config'], 'architecture' | 'tieWordEmbeddings'>;
  /** `file` when absent. */
  readonly adapterDtype?: AdapterDtype;
};

/** The output head's module, a site of its own even where its weight is the embedding's. */
export const HEAD = 'lm_head';

/** Every module name that PEFT would see: what has weights, what contains it, and what has none. */
export function baseModuleNames({ sites, embedding, norms }: BaseModel): ReadonlySet<string> {
  const weighted = [
    ...sites.flatMap((site) => site.modules.map((module) => module.name)),
    ...norms.map((norm) => norm.name),
    embedding.name,
  ];
  const names = new Set(['model.rotary_emb']);
  for (const name of weighted) {
    for (let dot = name.indexOf('.'); dot >= 0; dot = name.indexOf('.', dot + 1)) names.add(name.slice(0, dot));
    names.add(name);
    if (name.endsWith('.mlp.down_proj')) names.add(name.replace(/down_proj$/, 'act_fn'));
  }
  return names;
}

/** Hidden width and vocabulary size of the base. */
export function embeddingShape({ embedding }: BaseModel): { readonly vocab: number; readonly hidden: number } {
  return { vocab: embedding.weight.rows, hidden: embedding.weight.cols };
}
