/** The part of a WebSocket that sends. */
export interface FrameSocket {
  /** Bytes accepted by `send` that have not reached the kernel. */
  readonly bufferedAmount: number;
  send(frame: string, done: (error?: Error | null) => void): void;
}

/** A `token` message before it is written: more of the same choice may still be added to it. */
export interface TokenPiece {
  readonly index: number;
  readonly text: string;
  readonly tokenIds: readonly number[];
  /** One entry a token, in the form of the API. */
  readonly logprobs: object | null;
  readonly toolCalls: readonly object[];
}

export interface OutboxLimits {
  /** Unsent bytes of the socket from which on tokens wait. */
  readonly highWaterBytes: number;
  /** Characters that one stream may hold back. */
  readonly maxHeldCharacters: number;
  /** How long one stream may be held back. */
  readonly maxHeldMs: number;
}

/** Tokens of one stream that wait for the socket. */
interface Held {
  readonly pieces: TokenPiece[];
  characters: number;
  readonly sinceMs: number;
}

/** One stream's way out. */
export interface StreamOutlet {
  /** Writes a token now, or keeps it until the socket takes more. False: too much waits, for too long. */
  token(piece: TokenPiece): boolean;
  /** Writes what waits and then the last message of the stream. */
  last(message: object): void;
  /** Forgets what waits. */
  drop(): void;
}

/**
 * Everything that goes out on one socket. Messages other than tokens are written at once, in order with the tokens of
 * their stream; tokens wait while the socket is behind, and then go out merged, one frame for each choice.
 */
export class Outbox {
  readonly #socket: FrameSocket;
  readonly #limits: OutboxLimits;
  readonly #now: () => number;
  readonly #streams = new Set<Stream>();
  #closed = false;

  constructor(socket: FrameSocket, limits: OutboxLimits, now: () => number) {
    this.#socket = socket;
    this.#limits = limits;
    this.#now = now;
  }

  write(message: object): void {
    if (this.#closed) return;
    this.#socket.send(JSON.stringify(message), () => this.#flush());
  }

  stream(id: string): StreamOutlet {
    const stream = new Stream(id, this, this.#limits, this.#now);
    this.#streams.add(stream);
    return stream;
  }

  /** True while tokens have to wait. */
  get behind(): boolean {
    return this.#socket.bufferedAmount > this.#limits.highWaterBytes;
  }

  /** Nothing is written any more. */
  close(): void {
    this.#closed = true;
    this.#streams.clear();
  }

  forget(stream: Stream): void {
    this.#streams.delete(stream);
  }

  #flush(): void {
    for (const stream of this.#streams) {
      if (this.#closed || this.behind) return;
      stream.flush();
    }
  }
}

class Stream implements StreamOutlet {
  readonly #id: string;
  readonly #outbox: Outbox;
  readonly #limits: OutboxLimits;
  readonly #now: () => number;
  #seq = 0;
  #held: Held | null = null;

  constructor(id: string, outbox: Outbox, limits: OutboxLimits, now: () => number) {
    this.#id = id;
    this.#outbox = outbox;
    this.#limits = limits;
    this.#now = now;
  }

  token(piece: TokenPiece): boolean {
    if (this.#held === null && !this.#outbox.behind) {
      this.#write(piece);
      return true;
    }
    const held = this.#held ?? { pieces: [], characters: 0, sinceMs: this.#now() };
    this.#held = held;
    held.pieces.push(piece);
    held.characters += piece.text.length + 64;
    const { maxHeldCharacters, maxHeldMs } = this.#limits;
    return held.characters <= maxHeldCharacters && this.#now() - held.sinceMs <= maxHeldMs;
  }

  flush(): void {
    const held = this.#held;
    if (held === null) return;
    this.#held = null;
    for (const piece of merged(held.pieces)) this.#write(piece);
  }

  last(message: object): void {
    this.flush();
    this.#outbox.forget(this);
    this.#outbox.write(message);
  }

  drop(): void {
    this.#held = null;
    this.#outbox.forget(this);
  }

  #write({ index, text, tokenIds, logprobs, toolCalls }: TokenPiece): void {
    this.#outbox.write({
      type: 'token',
      id: this.#id,
      seq: this.#seq,
      index,
      text,
      ...(tokenIds.length === 0 ? {} : { token_ids: tokenIds }),
      ...(logprobs === null ? {} : { logprobs }),
      ...(toolCalls.length === 0 ? {} : { tool_calls: toolCalls }),
    });
    this.#seq += 1;
  }
}

/** Largest text of one frame, so that frames stay below 64 KiB in any script. */
const MAX_FRAME_TEXT = 8_192;

/** Pieces of one choice that follow each other become one, up to the size of a frame. */
export function merged(pieces: readonly TokenPiece[]): readonly TokenPiece[] {
  const open = new Map<number, TokenPiece>();
  const done: TokenPiece[] = [];
  for (const piece of pieces) {
    const before = open.get(piece.index);
    if (before === undefined) {
      open.set(piece.index, piece);
    } else if (before.text.length + piece.text.length > MAX_FRAME_TEXT) {
      done.push(before);
      open.set(piece.index, piece);
    } else {
      open.set(piece.index, joined(before, piece));
    }
  }
  return [...done, ...open.values()];
}

function joined(a: TokenPiece, b: TokenPiece): TokenPiece {
  return {
    index: a.index,
    text: a.text + b.text,
    tokenIds: [...a.tokenIds, ...b.tokenIds],
    logprobs: joinedLogprobs(a.logprobs, b.logprobs),
    toolCalls: [...a.toolCalls, ...b.toolCalls],
  };
}

/** Every API's log-probabilities are an object of lists, one entry a token. */
function joinedLogprobs(a: object | null, b: object | null): object | null {
  if (a === null || b === null) return a ?? b;
  const after: Readonly<Record<string, unknown>> = { ...b };
  return Object.fromEntries(
    Object.entries(a).map(([name, list]) => {
      const more = after[name];
      return [name, Array.isArray(list) && Array.isArray(more) ? [...list, ...more] : list];
    }),
  );
}
