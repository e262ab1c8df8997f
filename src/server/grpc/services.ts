import { setTimeout } from 'node:timers/promises';
import { Metadata, type ServerUnaryCall, type ServerWritableStream, type sendUnaryData } from '@grpc/grpc-js';
import type { Scope } from '../../auth/scopes.js';
import { LoramuxError } from '../../core/errors.js';
import type { NativeTokenizer } from '../../engine/binding.js';
import type { Lifecycle } from '../lifecycle.js';
import { type AdapterCallDeps, AdapterCalls } from './adapter-calls.js';
import { adapterMessage } from './adapter-messages.js';
import { AdapterWatch } from './adapter-watch.js';
import { type GenerateDeps, type GenerateStream, generate } from './generate-call.js';
import type { GrpcService } from './listener.js';
import type {
  ListAdaptersMessage,
  LoadAdapterMessage,
  TokenizeRequestMessage,
  UnloadAdapterMessage,
  WatchAdaptersMessage,
} from './messages.js';
import { type CallDeps, inScope } from './scope.js';

/** How late a watcher may learn of a change. */
const WATCH_MS = 500;

/** The service Generation. */
export function generationService(
  deps: GenerateDeps & { readonly tokenizer: Pick<NativeTokenizer, 'encode'>; readonly lifecycle: Lifecycle },
  calls: CallDeps,
): GrpcService {
  const { engine, tokenizer, lifecycle } = deps;
  const refuseIfDraining = (): void => {
    if (lifecycle.draining) {
      throw new LoramuxError('ERR_DRAINING', 'the server is draining: send the request to another replica');
    }
  };
  return {
    kind: 'generation',
    implementation: {
      generate: (call: GenerateStream) =>
        void stream(call, 'infer', calls, (scope) => {
          refuseIfDraining();
          return generate(call, deps, scope);
        }),
      tokenize: unary('infer', calls, async ({ text = '', addSpecialTokens = true }: TokenizeRequestMessage) => {
        const ids = await tokenizer.encode(text, addSpecialTokens);
        return { tokenIds: Array.from(ids), maxModelLen: engine.limits.maxModelLen };
      }),
    },
  };
}

/** The service AdapterAdmin. */
export function adapterAdminService(deps: AdapterCallDeps, calls: CallDeps): GrpcService {
  const adapters = new AdapterCalls(deps);
  return {
    kind: 'adapterAdmin',
    implementation: {
      loadAdapter: unary('admin:write', calls, (message: LoadAdapterMessage) => adapters.load(message)),
      unloadAdapter: unary('admin:write', calls, (message: UnloadAdapterMessage) => adapters.unload(message)),
      listAdapters: unary('admin:read', calls, (message: ListAdaptersMessage) => adapters.list(message)),
      watchAdapters: (call: ServerWritableStream<WatchAdaptersMessage, object>) =>
        void stream(call, 'admin:read', calls, () => watch(call, adapters)),
    },
  };
}

function unary<Request>(access: Scope, calls: CallDeps, answer: (message: Request) => Promise<object>) {
  return (call: ServerUnaryCall<Request, object>, callback: sendUnaryData<object>): void => {
    let reply: object | null = null;
    void inScope(call, access, calls, async () => {
      reply = await answer(call.request);
    }).then((failure) => callback(failure, reply));
  };
}

async function stream<Request>(
  call: ServerWritableStream<Request, object>,
  access: Scope,
  calls: CallDeps,
  work: Parameters<typeof inScope>[3],
): Promise<void> {
  const trailers = new Metadata();
  const failure = await inScope(call, access, calls, async (scope) => {
    await work(scope);
    const digest = scope.facts.servedBy?.digest ?? null;
    if (digest !== null) trailers.set('x-loramux-adapter-digest', digest);
  });
  if (failure === null) call.end(trailers);
  else call.emit('error', failure);
}

/** Writes what there is, SYNCED, and then changes as they are noticed, until the client leaves. */
async function watch(call: ServerWritableStream<WatchAdaptersMessage, object>, adapters: AdapterCalls): Promise<void> {
  const seen = new AdapterWatch(call.request.names);
  const writeChanges = async (): Promise<void> => {
    for (const { type, adapter } of seen.changes(await adapters.all())) {
      call.write({ type, adapter: adapterMessage(adapter) });
    }
  };
  await writeChanges();
  call.write({ type: 'SYNCED' });
  const left = new AbortController();
  call.once('cancelled', () => left.abort());
  while (!call.cancelled) {
    await setTimeout(WATCH_MS, undefined, { signal: left.signal }).catch(() => undefined);
    if (!call.cancelled) await writeChanges();
  }
}
