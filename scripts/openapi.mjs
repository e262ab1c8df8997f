// `npm run openapi`: writes docs/openapi.json and docs/openapi-admin.json anew; a test compares them with the routes.
import { join } from 'node:path';
import { buildTypeScript, root, run } from './steps.mjs';

buildTypeScript();
process.env.UPDATE_OPENAPI = '1';
run(process.execPath, ['--test', join(root, 'dist', 'tests', 'http', 'openapi.test.js')]);
