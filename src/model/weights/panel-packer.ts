import { PANEL_ROWS, QUANT_BLOCK } from '../graph/model-plan.js';
import type { QuantisedRows } from './quantise.js';

/** Inputs of one row that lie side by side: what one lane of the kernel's dot product takes. */
const QUAD = 4;
const QUAD_BYTES = QUAD * PANEL_ROWS;

/** Whole panels, of which `firstPanel` is the first; layouts as `WeightRef` says. */
export interface PackedPanels {
  readonly firstPanel: number;
  readonly data: Uint8Array;
  /** Float16 bits. */
  readonly scales: Uint16Array;
  /** Float16 bits. */
  readonly mins: Uint16Array;
}

/**
 * Packs the rows of one matrix into panels of 16. Rows come in runs, in order; where a run ends inside a panel, that panel
 * comes out unfinished (zeros behind), and again with the next run.
 */
export class PanelPacker {
  readonly #bits: 8 | 4;
  readonly #blocks: number;
  #unfinished: PackedPanels | null = null;

  constructor(
    readonly format: 'w8' | 'w4',
    cols: number,
  ) {
    this.#bits = format === 'w8' ? 8 : 4;
    this.#blocks = cols / QUANT_BLOCK;
  }

  /** @param firstRow of the matrix; the row behind the last one packed. */
  pack(rows: QuantisedRows, firstRow: number, count: number): PackedPanels {
    const begun = firstRow % PANEL_ROWS;
    const panels = Math.ceil((begun + count) / PANEL_ROWS);
    const packed = this.#allocate((firstRow - begun) / PANEL_ROWS, panels);
    if (begun > 0 && this.#unfinished !== null) {
      packed.data.set(this.#unfinished.data);
      packed.scales.set(this.#unfinished.scales);
      packed.mins.set(this.#unfinished.mins);
    }
    for (let row = 0; row < count; row++) this.#place(rows, row, packed, begun + row);
    this.#unfinished = (begun + count) % PANEL_ROWS === 0 ? null : lastPanel(packed, panels);
    return packed;
  }

  #allocate(firstPanel: number, panels: number): PackedPanels {
    const blocks = panels * this.#blocks;
    return {
      firstPanel,
      data: new Uint8Array((blocks * QUANT_BLOCK * PANEL_ROWS * this.#bits) / 8),
      scales: new Uint16Array(blocks * PANEL_ROWS),
      mins: new Uint16Array(blocks * PANEL_ROWS),
    };
  }

  #place(rows: QuantisedRows, row: number, packed: PackedPanels, place: number): void {
    const lane = place % PANEL_ROWS;
    const panel = (place - lane) / PANEL_ROWS;
    for (let b = 0; b < this.#blocks; b++) {
      const from = row * this.#blocks + b;
      const block = panel * this.#blocks + b;
      packed.scales[block * PANEL_ROWS + lane] = rows.scales[from] as number;
      packed.mins[block * PANEL_ROWS + lane] = rows.mins[from] as number;
      for (let c = 0; c < QUANT_BLOCK; c++) {
        const quad = c >> 2;
        const quant = rows.quants[from * QUANT_BLOCK + c] as number;
        if (this.#bits === 8) {
          packed.data[(block * 8 + quad) * QUAD_BYTES + lane * QUAD + (c & 3)] = quant;
        } else {
          const at = (block * 4 + (quad >> 1)) * QUAD_BYTES + lane * QUAD + (c & 3);
          packed.data[at] = (packed.data[at] as number) | (quant << (4 * (quad & 1)));
        }
      }
    }
  }
}

function lastPanel({ firstPanel, data, scales, mins }: PackedPanels, panels: number): PackedPanels {
  return {
    firstPanel: firstPanel + panels - 1,
    data: data.slice(-data.length / panels),
    scales: scales.slice(-scales.length / panels),
    mins: mins.slice(-mins.length / panels),
  };
}
