/** One row of the report: cases of the synthetic fixtures that belong together. */
export interface MatrixRow {
  readonly id: string;
  readonly what: string;
  readonly takes: (adapter: string, model: string) => boolean;
}

/** Adapters that must be refused: directories of `tests/fixtures/synthetic/bad`. */
export interface RefusedRow {
  readonly id: string;
  readonly what: string;
  readonly takes: (directory: string) => boolean;
}

const named =
  (...names: readonly string[]) =>
  (adapter: string): boolean =>
    names.includes(adapter);
const begins =
  (...starts: readonly string[]) =>
  (adapter: string): boolean =>
    starts.some((start) => adapter === start || adapter.startsWith(`${start}-`));
const on =
  (models: RegExp, takes: (adapter: string) => boolean) =>
  (adapter: string, model: string): boolean =>
    models.test(model) && takes(adapter);

const BIASED = /^(llama-biased|qwen2)/;
const STORED_BF16 = /^(llama-wide|mistral-window|qwen2-tied)$/;
const TIED = /^(llama-gqa-tied|llama-deep|llama-wide|qwen2-tied)/;

export const MATRIX: readonly MatrixRow[] = [
  { id: 'base', what: 'no adapter', takes: named('__base__') },
  { id: 'L01', what: 'rank 8 on q and v, files in F32, BF16, F16', takes: begins('plain') },
  { id: 'L02', what: 'all linear modules', takes: named('all-linear') },
  {
    id: 'L03',
    what: 'ranks 1, 2, 3, 17, 64, 128, 256',
    takes: begins('rank-1', 'rank-2', 'rank-3', 'rank-17', 'rank-64', 'rank-128', 'rank-256'),
  },
  { id: 'L04', what: 'rsLoRA', takes: named('rslora') },
  { id: 'L05', what: 'alpha no integer; alpha 0', takes: named('float-alpha', 'zero-alpha') },
  { id: 'L06', what: '`rank_pattern`', takes: named('rank-pattern') },
  { id: 'L07', what: '`alpha_pattern`, overlapping, both orders', takes: begins('alpha-pattern') },
  { id: 'L08', what: 'both patterns with rsLoRA', takes: named('patterns-rslora') },
  {
    id: 'L09',
    what: 'pattern as target, `exclude_modules`, one layer',
    takes: named('regex-targets', 'excluded', 'one-layer'),
  },
  { id: 'L10', what: 'layers 1 and 3 of four', takes: named('layers-1-3') },
  { id: 'L11', what: 'LoRA on `lm_head`, tied and untied', takes: begins('lm-head') },
  { id: 'L12', what: 'LoRA on `embed_tokens`, tied, untied, `ensure_weight_tying`', takes: begins('embed') },
  { id: 'L15', what: '`lora_bias` on modules with a bias', takes: on(BIASED, begins('lora-bias')) },
  { id: 'L16', what: '`lora_bias` on modules without', takes: on(/^llama-gqa/, begins('lora-bias')) },
  { id: 'L17', what: '`bias` `lora_only` and `all`', takes: begins('bias') },
  { id: 'L18', what: 'EVA: uneven ranks and alphas', takes: named('eva') },
  { id: 'L19', what: 'factors in F64', takes: named('f64') },
  { id: 'P02', what: 'PiSSA and OLoRA, converted by PEFT; rsLoRA too', takes: begins('converted') },
  { id: 'D01', what: 'DoRA on q and v', takes: named('dora') },
  { id: 'D02', what: 'DoRA on modules with a bias', takes: on(BIASED, named('dora-all')) },
  { id: 'D03', what: 'DoRA, rsLoRA and patterns', takes: named('dora-rslora-patterns') },
  { id: 'D04', what: 'DoRA on `lm_head` and on `embed_tokens`', takes: begins('dora-lm-head', 'dora-embed') },
  { id: 'D05', what: 'DoRA on all linear modules of every other model', takes: named('dora-all') },
  { id: 'D07', what: 'DoRA on weights stored in BF16', takes: on(STORED_BF16, begins('dora')) },
  { id: 'M01', what: '`modules_to_save`: `lm_head`', takes: begins('modules-to-save-lm-head') },
  { id: 'M02', what: '`modules_to_save`: `embed_tokens`, tied and untied', takes: begins('modules-to-save-embed') },
  { id: 'M03', what: '`modules_to_save`: both', takes: begins('modules-to-save-both') },
  { id: 'M04', what: '`modules_to_save`: norms, by suffix and by name', takes: begins('modules-to-save-norm') },
  { id: 'M05', what: '`modules_to_save`: linear modules with their bias', takes: begins('modules-to-save-linear') },
  { id: 'K01', what: 'trainable tokens, ids in no order and given twice', takes: begins('trainable-tokens-list') },
  { id: 'K02', what: 'of these on a tied head', takes: on(TIED, begins('trainable-tokens-list')) },
  { id: 'K03', what: 'trainable tokens of embedding and head, different ids', takes: begins('trainable-tokens-dict') },
  { id: 'V01', what: 'MiCA, VeLoRA, MonteCLoRA: plain once trained', takes: begins('trained-with') },
  { id: 'V02', what: 'block-diagonal LoRA', takes: begins('block-diagonal') },
];

const HOSTILE_CONFIG = /^adapter-(config-|bad-pattern|alpha-is-text|unknown-switch|other-task|missing-config)/;
const VARIANTS = /^adapter-(other-method|adalora|xlora|kasa|arrow|megatron|target-parameters|layer-replication)$/;
const MOVED_BASE = /^adapter-(unconverted-|loftq)/;

/** The last row takes what no other takes. */
export const REFUSED: readonly RefusedRow[] = [
  {
    id: 'P01, P03',
    what: 'unconverted PiSSA, CorDA, LoRA-GA, LoftQ',
    takes: (directory) => MOVED_BASE.test(directory),
  },
  {
    id: 'V03',
    what: 'methods that need another graph, another base or other arithmetic',
    takes: (directory) => VARIANTS.test(directory),
  },
  { id: 'S02', what: 'broken configurations', takes: (directory) => HOSTILE_CONFIG.test(directory) },
  { id: 'S01', what: 'broken, incomplete and smuggling files', takes: (directory) => directory.startsWith('adapter-') },
];

/** Rows of the matrix that have no case here, and why. */
export const ELSEWHERE: readonly (readonly [id: string, what: string, where: string])[] = [
  ['L13, D04', 'GPT-2 `Conv1D`', 'no decoder of that family is served'],
  ['L14', 'factors on parts of fused projections', 'every row: q, k, v and gate, up are fused in every graph'],
  ['A01–A03', 'aLoRA', '`tests/synthetic/activated.test.ts`'],
  ['C01–C04, D06', 'merges, weighted lists, strength', '`tests/synthetic/composition.test.ts`'],
  ['V02', 'QALoRA', 'refused: no base here is quantised the way its factors assume; `docs/adapters.md`'],
  ['X01–X03', 'mixed ranks, orders, chunks', 'the verdict of every row; `tests/synthetic/peft-parity.test.ts`'],
  ['X04', 'load, unload and replace under traffic', '`tests/model/hot.test.ts`'],
];
