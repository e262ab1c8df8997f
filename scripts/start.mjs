// `npm start [-- flags]`: installs and builds what is missing, then serves.
import { buildNative, buildTypeScript, installPackages, needTools } from './steps.mjs';

needTools('cargo', 'python3');
installPackages();
buildNative();
buildTypeScript();
await import('../dist/src/main.js');
