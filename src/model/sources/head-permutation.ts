import type { TensorRows } from './tensor.js';

/**
 * Undoes the row order that llama.cpp gives q and k (weights and biases) for its neighbour-pair rotary: inside each
 * head of D rows, `out[r] = in[2r]` and `out[D/2 + r] = in[2r + 1]`. Rows move whole, so quantised rows stay exact.
 * @param headDim D, even; `tensor.rows` is a multiple of it.
 */
export function undoHeadPermutation(tensor: TensorRows, headDim: number): TensorRows {
  return {
    ...tensor,
    async readRows(first, count) {
      const firstHead = Math.floor(first / headDim);
      const endHead = Math.ceil((first + count) / headDim);
      const stored = await tensor.readRows(firstHead * headDim, (endHead - firstHead) * headDim);
      const rowBytes = stored.length / ((endHead - firstHead) * headDim);
      const out = new Uint8Array(count * rowBytes);
      for (let i = 0; i < count; i++) {
        const row = first + i;
        const inHead = row % headDim;
        const from = inHead < headDim / 2 ? 2 * inHead : 2 * (inHead - headDim / 2) + 1;
        const at = (row - inHead - firstHead * headDim + from) * rowBytes;
        out.set(stored.subarray(at, at + rowBytes), i * rowBytes);
      }
      return out;
    },
  };
}
