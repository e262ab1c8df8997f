import { Agent, request } from 'node:http';

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

const DONE = 'data: [DONE]';
/** In a chunk with a token; the last one may bring none, and some bring no text. */
const TOKEN = /"token_ids":\[\d/;

/** A connection for each request: kept ones may be closed by the server just when they are used again. */
const agent = new Agent({ keepAlive: false });

/**
 * Sends one completion of exactly `maxTokens` tokens and notes when each comes. It parses no JSON, which would take the
 * server's cores away. Errors: any answer but a stream that ends.
 */
export function streamCompletion(
  url: string,
  { model, prompt, maxTokens }: Completion,
  onToken: (nowMs: number) => void = () => undefined,
): Promise<StreamTimes> {
  const wanted = { temperature: 0, ignore_eos: true, stream: true, return_token_ids: true };
  const body = { model, prompt, max_tokens: maxTokens, ...wanted };
  const sentMs = performance.now();
  const tokenMs: number[] = [];
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json' };
    const call = request(`${url}/v1/completions`, { method: 'POST', agent, headers }, (response) => {
      let rest = '';
      let done = false;
      response.setEncoding('utf8').on('data', (text: string) => {
        const nowMs = performance.now();
        const lines = (rest + text).split('\n');
        rest = lines.pop() ?? '';
        for (const line of lines) {
          if (TOKEN.test(line) && tokenMs.length < maxTokens) {
            tokenMs.push(nowMs);
            onToken(nowMs);
          }
          done ||= line.startsWith(DONE);
        }
        if (response.statusCode !== 200) rest += text;
      });
      response.once('error', reject).once('end', () => {
        if (done && tokenMs.length === maxTokens) resolve({ sentMs, tokenMs });
        else
          reject(new Error(`${model}: status ${response.statusCode}, ${tokenMs.length} tokens, ${rest.slice(0, 300)}`));
      });
    });
    call.once('error', reject);
    call.end(JSON.stringify(body));
  });
}
