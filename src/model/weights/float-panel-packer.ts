import { PANEL_ROWS } from '../graph/model-plan.js';

/** Whole panels, of which `firstPanel` is the first: [panels, cols, 16]. */
export interface FloatPanels {
  readonly firstPanel: number;
  readonly data: Float32Array;
}

/**
 * Packs the float32 rows of one matrix into panels of 16 rows, input by input. Rows come in runs, in order; where a run
 * ends inside a panel, that panel comes out unfinished (zeros behind), and again with the next run.
 */
export class FloatPanelPacker {
  readonly #cols: number;
  #unfinished: Float32Array | null = null;

  constructor(cols: number) {
    this.#cols = cols;
  }

  /**
   * @param values float32 [count, cols].
   * @param firstRow of the matrix; the row behind the last one packed.
   */
  pack(values: Float32Array, firstRow: number, count: number): FloatPanels {
    const cols = this.#cols;
    const begun = firstRow % PANEL_ROWS;
    const panels = Math.ceil((begun + count) / PANEL_ROWS);
    const data = new Float32Array(panels * cols * PANEL_ROWS);
    if (begun > 0 && this.#unfinished !== null) data.set(this.#unfinished);
    for (let row = 0; row < count; row++) {
      const place = begun + row;
      const lane = place % PANEL_ROWS;
      let at = (place - lane) * cols + lane;
      for (let from = row * cols; from < (row + 1) * cols; from++) {
        data[at] = values[from] as number;
        at += PANEL_ROWS;
      }
    }
    const isWhole = (begun + count) % PANEL_ROWS === 0;
    this.#unfinished = isWhole ? null : data.slice(-cols * PANEL_ROWS);
    return { firstPanel: (firstRow - begun) / PANEL_ROWS, data };
  }
}
