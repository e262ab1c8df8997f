import {
  ADAPTER_NAME,
  array,
  BOOLEAN,
  COUNT,
  DIGEST,
  described,
  type JsonSchema,
  json,
  NUMBER,
  nullable,
  object,
  type ReplyDoc,
  type RouteDoc,
  ref,
  STRING,
} from './route-doc.js';

const STATE = { enum: ['queued', 'fetching', 'validating', 'ready', 'draining', 'failed'] } as const;
const TIER = { enum: ['disk', 'host', 'device'] } as const;
const FLAG = described('Bare, true or false', { enum: ['', 'true', 'false'] });
const TEXT = nullable(STRING);

const SOURCE_OBJECT = object(
  { type: { enum: ['dir', 'hub', 's3', 'http', 'upload'] }, location: STRING, revision: TEXT, token: TEXT },
  ['type', 'location'],
);
const SOURCE: JsonSchema = {
  description: 'A path, dir:PATH, hub:ORG/NAME[@REVISION], s3://BUCKET/PREFIX or https://HOST/PATH; or its parts',
  anyOf: [{ type: 'string', minLength: 1 }, SOURCE_OBJECT],
};

/** Fields of a load, by name. */
export const LOAD: Readonly<Record<string, JsonSchema>> = {
  name: ADAPTER_NAME,
  source: SOURCE,
  pin: nullable({ ...BOOLEAN, default: false }),
  wait: described('true with `dryRun`', nullable({ ...BOOLEAN, default: true })),
  replace: nullable({ ...BOOLEAN, default: true }),
  dryRun: nullable({ ...BOOLEAN, default: false }),
};

const OFFENDER = object({ tensor: STRING, key: STRING, expected: STRING, found: STRING }, ['expected', 'found']);
const DETAILS = { field: STRING, file: STRING, offenders: array(OFFENDER) };
const BYTES = { needed: COUNT, free: COUNT, evictable: COUNT };
const WHOSE: JsonSchema = { enum: ['base', 'own'] };
const ADAPTER = {
  name: ADAPTER_NAME,
  aliases: array(STRING),
  digest: nullable(DIGEST),
  state: STATE,
  tier: TIER,
  bytes: COUNT,
  ranks: nullable(object({ min: COUNT, max: COUNT })),
  variant: array(STRING),
  modules: nullable(object({ inFile: COUNT, applied: COUNT })),
  proof: nullable(object({ maxLogitDelta: NUMBER, probeTokens: COUNT })),
  baseModel: TEXT,
  text: nullable(object({ tokenizer: WHOSE, template: WHOSE, digest: nullable(DIGEST) })),
  source: STRING,
  pins: object({ rows: COUNT, operator: BOOLEAN }),
  loadedAt: TEXT,
  lastUsedAt: TEXT,
  requests: COUNT,
};
const OPTIONAL = {
  progress: object({ bytes: COUNT, total: nullable(COUNT) }),
  failure: object({ code: STRING, message: STRING, ...DETAILS, bytes: object(BYTES) }, ['code', 'message']),
  warnings: array(STRING),
};
const TIERS = array(object({ tier: TIER, bytes: COUNT, capacity: COUNT, pinned: COUNT }));
const ALIAS = { name: ADAPTER_NAME, digest: DIGEST, adapter: nullable(ADAPTER_NAME) };
const REPLACED = described('Digest that the name stood for before', DIGEST);

/** Shared by the admin routes. */
export const ADMIN_COMPONENTS: Readonly<Record<string, JsonSchema>> = {
  AdminError: object({ error: STRING, code: STRING, ...DETAILS, ...BYTES }, ['error', 'code']),
  Adapter: object({ ...ADAPTER, ...OPTIONAL }, Object.keys(ADAPTER)),
  Loaded: object({ ...ADAPTER, ...OPTIONAL, replaced: REPLACED }, Object.keys(ADAPTER)),
  Alias: object(ALIAS),
};

const adapters = { tag: 'adapters' } as const;
const aliases = { tag: 'aliases' } as const;
const engine = { tag: 'engine' } as const;
const one = (text: string, name: string): Record<number, ReplyDoc> => ({ 200: { text, content: json(ref(name)) } });
const LOAD_ERRORS = [400, 403, 404, 409, 422, 499, 500, 502, 503, 504, 507] as const;
const LOADED = { content: json(ref('Loaded')) };
const LOAD_REPLIES = {
  200: { text: 'the same digest was there, the name moved to a new one, or a dry run passed', ...LOADED },
  201: { text: 'new', ...LOADED },
  202: { text: 'under way', ...LOADED },
};

export const LIST_ADAPTERS: RouteDoc = {
  ...adapters,
  id: 'list_adapters',
  summary: 'Adapters by name, a page at a time',
  query: { state: STATE, tier: TIER, cursor: described('`next` of an earlier page', STRING) },
  replies: {
    200: {
      text: 'a page',
      content: json(object({ adapters: array(ref('Adapter')), next: TEXT, tiers: TIERS })),
    },
  },
  errors: [400, 500],
};
export const GET_ADAPTER: RouteDoc = {
  ...adapters,
  id: 'get_adapter',
  summary: 'One adapter, by name or alias',
  replies: one('the adapter', 'Adapter'),
  errors: [400, 404, 500],
};
export const LOAD_ADAPTER: RouteDoc = {
  ...adapters,
  id: 'load_adapter',
  summary: 'Load an adapter, or find out whether it would load',
  body: json(object(LOAD, ['name', 'source'])),
  replies: LOAD_REPLIES,
  errors: LOAD_ERRORS,
};
const FILES = { type: 'string', format: 'binary' } as const;
export const UPLOAD_ADAPTER: RouteDoc = {
  ...adapters,
  id: 'upload_adapter',
  summary: 'Load the files in the body: a tar archive, or a form with a part for each file',
  query: { pin: FLAG, wait: FLAG, replace: FLAG, dryRun: FLAG },
  body: {
    'application/x-tar': FILES,
    'application/tar': FILES,
    'application/octet-stream': FILES,
    'multipart/form-data': { type: 'object', additionalProperties: FILES },
  },
  replies: LOAD_REPLIES,
  errors: LOAD_ERRORS,
};
export const UNLOAD_ADAPTER: RouteDoc = {
  ...adapters,
  id: 'unload_adapter',
  summary: 'Take an adapter out of service once its rows have ended, or with `force` at once',
  query: { force: FLAG },
  replies: { 200: { text: 'gone', content: json(object({ drained: COUNT, rowsCut: COUNT })) } },
  errors: [400, 404, 500],
};
const PINNING = [400, 404, 409, 422, 500, 502, 503, 504, 507];
export const PIN_ADAPTER: RouteDoc = {
  ...adapters,
  id: 'pin_adapter',
  summary: 'Keep an adapter resident, loading it first if need be',
  replies: one('the adapter', 'Adapter'),
  errors: [...PINNING, 413],
};
export const UNPIN_ADAPTER: RouteDoc = {
  ...adapters,
  id: 'unpin_adapter',
  summary: 'Let an adapter be evicted again',
  replies: one('the adapter', 'Adapter'),
  errors: [400, 404, 409, 500],
};

export const LIST_ALIASES: RouteDoc = {
  ...aliases,
  id: 'list_aliases',
  summary: 'Second names of adapters',
  replies: { 200: { text: 'all', content: json(object({ aliases: array(ref('Alias')) })) } },
  errors: [500],
};
const POINTED = { content: json(object({ ...ALIAS, replaced: REPLACED }, Object.keys(ALIAS))) };
export const POINT_ALIAS: RouteDoc = {
  ...aliases,
  id: 'point_alias',
  summary: 'Let a name stand for a digest, or for the one that an adapter has now',
  body: json({ oneOf: [object({ digest: DIGEST }), object({ adapter: ADAPTER_NAME })] }),
  replies: { 200: { text: 'moved', ...POINTED }, 201: { text: 'new', ...POINTED } },
  errors: [400, 404, 500],
};
export const FORGET_ALIAS: RouteDoc = {
  ...aliases,
  id: 'forget_alias',
  summary: 'Forget an alias',
  replies: one('what it was', 'Alias'),
  errors: [400, 404, 500],
};

const ENGINE_STATE = object({
  waiting: COUNT,
  waitingForAdapter: COUNT,
  running: COUNT,
  kvBlocks: object({ total: COUNT, used: COUNT, cached: COUNT, adapters: COUNT, blockSize: COUNT }),
  tiers: TIERS,
  steps: COUNT,
  lastStepAgeMs: nullable(NUMBER),
  draining: BOOLEAN,
  version: STRING,
  node: STRING,
  model: STRING,
});
export const GET_STATE: RouteDoc = {
  ...engine,
  id: 'state',
  summary: 'What the engine is doing',
  replies: { 200: { text: 'the state', content: json(ENGINE_STATE) } },
  errors: [500],
};
export const DRAIN: RouteDoc = {
  ...engine,
  id: 'drain',
  summary: 'Stop taking work, finish, exit',
  replies: { 202: { text: 'it has begun', content: json(object({ draining: { const: true } })) } },
  errors: [],
};
