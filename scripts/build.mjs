// `npm run build [packages|native|ts]`: installs, then builds the addon, the TypeScript, or both.
import { buildNative, buildTypeScript, installPackages } from './steps.mjs';

const what = process.argv[2] ?? 'all';
installPackages();
if (what === 'all' || what === 'native') buildNative();
if (what === 'all' || what === 'ts') buildTypeScript();
