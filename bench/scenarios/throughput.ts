/** Decode and prefill speed: the cells, as data. One stands in the middle (decode, batch 16, rank 16); others change an axis. */
import type { AdapterMix, RankChoice } from './adapter-mix.js';

/** One thing to measure for each contender. */
export interface Cell {
  readonly id: string;
  readonly phase: 'prefill' | 'decode';
  readonly batch: number;
  readonly mix: AdapterMix;
  readonly rank: RankChoice;
  readonly promptTokens: number;
  /** By all contenders, by loramux in all its modes, or in its reference mode alone. */
  readonly by: 'all' | 'loramux' | 'reference';
  /** The graph from which every operator for adapters was taken. */
  readonly withoutOperators: boolean;
}

/**
 * Cells that are compared with one another. Each contender runs all of a group in turn before the next one does, so
 * that what is compared closely lies closely in time.
 */
export interface Group {
  readonly name: string;
  readonly cells: readonly Cell[];
  /** How often loramux runs the group within a round. */
  readonly repeats: number;
  /** Runs with `--quick` too. */
  readonly quick: boolean;
}

const DECODE_PROMPT = 32;

function decode(batch: number, mix: AdapterMix, rank: RankChoice = 16): Cell {
  const id = `decode/${batch}/${mix}/${rank}`;
  return { id, phase: 'decode', batch, mix, rank, promptTokens: DECODE_PROMPT, by: 'loramux', withoutOperators: false };
}

function prefill(batch: number, promptTokens: number, mix: AdapterMix, rank: RankChoice = 16): Cell {
  const id = `prefill/${batch}x${promptTokens}/${mix}/${rank}`;
  return { id, phase: 'prefill', batch, mix, rank, promptTokens, by: 'loramux', withoutOperators: false };
}

/** What the operators cost the base: the same rows through the graph with them and without. */
function operators(batch: number): Cell[] {
  const cell: Cell = { ...decode(batch, 'base'), by: 'reference' };
  return [
    { ...cell, id: `operators/${batch}/without`, withoutOperators: true },
    { ...cell, id: `operators/${batch}/with` },
  ];
}

const withPeers = (cell: Cell): Cell => ({ ...cell, by: 'all' });

export const GROUPS: readonly Group[] = [
  // One part in a hundred is asked for where two runs of the same differ by ten: many short ones in turn.
  { name: 'operators1', repeats: 20, quick: true, cells: operators(1) },
  { name: 'operators16', repeats: 20, quick: true, cells: operators(16) },
  {
    name: 'batch1',
    repeats: 3,
    quick: true,
    cells: [
      withPeers(decode(1, 'base')),
      decode(1, 'identical', 8),
      withPeers(decode(1, 'identical', 16)),
      decode(1, 'identical', 64),
    ],
  },
  {
    name: 'batch4',
    repeats: 1,
    quick: false,
    cells: [withPeers(decode(4, 'base')), decode(4, 'identical'), withPeers(decode(4, 'distinct'))],
  },
  {
    name: 'batch8',
    repeats: 1,
    quick: false,
    cells: [withPeers(decode(8, 'base')), decode(8, 'identical'), withPeers(decode(8, 'distinct'))],
  },
  {
    name: 'batch16',
    repeats: 6,
    quick: true,
    cells: [
      withPeers(decode(16, 'base')),
      withPeers(decode(16, 'identical')),
      withPeers(decode(16, 'distinct')),
      decode(16, 'identical', 64),
      decode(16, 'distinct', 64),
    ],
  },
  {
    name: 'mixes',
    repeats: 1,
    quick: false,
    cells: [
      withPeers(decode(16, 'distinct:2')),
      withPeers(decode(16, 'distinct:4')),
      withPeers(decode(16, 'distinct:8')),
      decode(16, 'uniform'),
      decode(16, 'zipf:1.5'),
      decode(16, 'distinct', 8),
      decode(16, 'distinct', 'mixed'),
    ],
  },
  {
    name: 'batch32',
    repeats: 1,
    quick: false,
    cells: [withPeers(decode(32, 'base')), decode(32, 'identical'), withPeers(decode(32, 'distinct'))],
  },
  {
    name: 'prefill',
    repeats: 1,
    quick: true,
    cells: [
      withPeers(prefill(1, 512, 'base')),
      prefill(1, 512, 'identical'),
      withPeers(prefill(16, 32, 'base')),
      withPeers(prefill(16, 32, 'distinct')),
      prefill(16, 32, 'distinct', 64),
    ],
  },
];

export const CELLS: readonly Cell[] = GROUPS.flatMap(({ cells }) => cells);
