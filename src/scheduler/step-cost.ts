/** How many times longer a step of no rows would take than one more row does, until steps have shown it. */
const ROWS_OF_A_BARE_STEP = 16;
/** What is left of an observation's weight after the next one. */
const MEMORY = 0.98;
/** Spread of row counts (rows²) at which what was seen weighs as much as the assumption. */
const TRUSTED_SPREAD = 4;

/**
 * What a step takes, as a line over its rows: weights are read once however many rows there are, so the first row is
 * the dear one. Fitted to the latest steps by weighted least squares, drawn towards an assumption where they all had
 * about as many rows.
 */
export class StepCost {
  #weight = 0;
  #rows = 0;
  #seconds = 0;
  #rowsSquared = 0;
  #rowSeconds = 0;

  /** A step of `rows` rows ran for `seconds`. */
  observe(rows: number, seconds: number): void {
    if (!(seconds > 0)) return;
    this.#weight = this.#weight * MEMORY + 1;
    this.#rows = this.#rows * MEMORY + rows;
    this.#seconds = this.#seconds * MEMORY + seconds;
    this.#rowsSquared = this.#rowsSquared * MEMORY + rows * rows;
    this.#rowSeconds = this.#rowSeconds * MEMORY + rows * seconds;
  }

  /** What a step of `rows` rows takes, in rows: as many times as long as one more row adds. */
  inRows(rows: number): number {
    if (this.#weight === 0) return ROWS_OF_A_BARE_STEP + rows;
    const meanRows = this.#rows / this.#weight;
    const meanSeconds = this.#seconds / this.#weight;
    const spread = Math.max(0, this.#rowsSquared / this.#weight - meanRows * meanRows);
    const together = this.#rowSeconds / this.#weight - meanRows * meanSeconds;
    const assumed = meanSeconds / (ROWS_OF_A_BARE_STEP + meanRows);
    const fitted = (together + TRUSTED_SPREAD * assumed) / (spread + TRUSTED_SPREAD);
    // A row takes some time, and no step is all rows and nothing else.
    const perRow = Math.min(Math.max(fitted, assumed / 8), meanSeconds / Math.max(1, meanRows));
    return Math.max(rows, meanSeconds / perRow + rows - meanRows);
  }
}
