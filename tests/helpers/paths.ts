import { join } from 'node:path';
import { packageRoot } from '../../src/engine/addon.js';

export const ROOT = packageRoot();
export const FIXTURES = join(ROOT, 'tests', 'fixtures');
export const DEMO_ADAPTERS = join(ROOT, 'examples', 'adapters');
/** Converted models of the test runs; inside the checkout, so that a fresh clone starts from nothing. */
export const TEST_CACHE = join(ROOT, '.cache');
