/**
 * Renders docs/benchmarks.md and its charts from results, without measuring.
 *
 *   npm run bench:page [-- FILE …]
 *
 * Several files are read as one; without any the page's own records are.
 */
import { parseArgs } from 'node:util';
import { RESULTS_FILE, writePage } from './report/write-page.js';

const { positionals } = parseArgs({ allowPositionals: true });
writePage(positionals.length === 0 ? [RESULTS_FILE] : positionals);
