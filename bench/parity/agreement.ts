/** Differences between two sets of logits, and between the tokens chosen from them. */
export class Agreement {
  #worst = 0;
  #sum = 0;
  #values = 0;
  #squares = 0;
  #wantedSquares = 0;
  #compared = 0;
  #agreed = 0;

  /** Adds logits [V] and what was expected of them. */
  addLogits(actual: Float32Array, expected: Float32Array): void {
    for (const [i, wanted] of expected.entries()) {
      const error = Math.abs((actual[i] as number) - wanted);
      // NaN stays: an error without bound.
      this.#worst = Math.max(this.#worst, error);
      this.#sum += error;
      this.#squares += error * error;
      this.#wantedSquares += wanted * wanted;
    }
    this.#values += expected.length;
  }

  /** Adds one greedy choice. */
  addChoice(actual: number, expected: number): void {
    this.#compared += 1;
    if (actual === expected) this.#agreed += 1;
  }

  /** Largest and mean |actual − expected|, ‖actual − expected‖ / ‖expected‖, and the choices. */
  get figures(): {
    readonly worst: number;
    readonly mean: number;
    readonly relative: number;
    readonly compared: number;
    readonly agreed: number;
  } {
    return {
      worst: this.#worst,
      mean: this.#sum / this.#values,
      relative: Math.sqrt(this.#squares / this.#wantedSquares),
      compared: this.#compared,
      agreed: this.#agreed,
    };
  }
}

/** Kullback-Leibler divergence of softmax(actual) from softmax(expected), in nats. */
export function divergence(actual: Float32Array, expected: Float32Array): number {
  const [ours, theirs] = [logSumExp(actual), logSumExp(expected)];
  let sum = 0;
  for (const [i, wanted] of expected.entries()) {
    const logProbability = wanted - theirs;
    sum += Math.exp(logProbability) * (logProbability - ((actual[i] as number) - ours));
  }
  return sum;
}

function logSumExp(logits: Float32Array): number {
  const most = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  return most + Math.log(logits.reduce((sum, value) => sum + Math.exp(value - most), 0));
}
