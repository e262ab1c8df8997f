import { connect } from 'node:net';

/** One streamed completion; times are of `performance.now()`, in milliseconds. */
export interface StreamTimes {
  readonly sentMs: number;
  /** One entry a token: when its chunk came. */
  readonly tokenMs: readonly number[];
}

export interface Completion {
  /** Adapter, or the base's name. */
  readonly model: string;
  /** Token ids, or text. */
  readonly prompt: readonly number[] | string;
  readonly maxTokens: number;
}

const OK = 'HTTP/1.1 200 ';
/** In a chunk with a token; the last one may bring none, and some bring no text. */
const TOKEN_IDS = '"token_ids":[';
const DONE = 'data: [DONE]';
/** What is kept of bytes read: enough for marks that are cut, and for the end with what stands behind it. */
const KEPT = 64;
const READ_BYTES = 65_536;

/**
 * Sends one completion of exactly `maxTokens` tokens over a connection of its own and notes when each comes. It reads
 * the socket itself and only looks for marks: to parse HTTP and JSON would take the server's cores away. Errors: any
 * answer but a stream that ends.
 */
export function streamCompletion(
  url: string,
  { model, prompt, maxTokens }: Completion,
  onToken: (nowMs: number) => void = () => undefined,
): Promise<StreamTimes> {
  const sentMs = performance.now();
  const tokenMs: number[] = [];
  let start = '';
  let rest = '';
  const read = (text: string): void => {
    if (start === '') start = text;
    const nowMs = performance.now();
    const all = rest + text;
    let from = 0;
    for (;;) {
      const at = all.indexOf(TOKEN_IDS, from) + TOKEN_IDS.length;
      if (at < TOKEN_IDS.length || at === all.length) break;
      from = at;
      if (all[at] === ']') continue;
      tokenMs.push(nowMs);
      onToken(nowMs);
    }
    rest = all.slice(Math.max(from, all.length - KEPT));
  };
  return new Promise((resolve, reject) => {
    const { hostname, port, host } = new URL(url);
    const onread = {
      buffer: Buffer.allocUnsafe(READ_BYTES),
      callback: (bytes: number, buffer: Uint8Array): boolean => {
        read((buffer as Buffer).toString('latin1', 0, bytes));
        return true;
      },
    };
    const socket = connect({ host: hostname, port: Number(port), onread });
    socket.once('error', reject).once('close', () => {
      if (start.startsWith(OK) && rest.includes(DONE) && tokenMs.length === maxTokens) resolve({ sentMs, tokenMs });
      else reject(new Error(`${model}: ${tokenMs.length} of ${maxTokens} tokens, ${start.slice(0, 800)}`));
    });
    socket.write(requestOf(host, { model, prompt, max_tokens: maxTokens }));
  });
}

function requestOf(host: string, call: object): string {
  const body = JSON.stringify({ ...call, temperature: 0, ignore_eos: true, stream: true, return_token_ids: true });
  const head = [
    'POST /v1/completions HTTP/1.1',
    `host: ${host}`,
    'connection: close',
    'content-type: application/json',
  ];
  return [...head, `content-length: ${Buffer.byteLength(body)}`, '', body].join('\r\n');
}
