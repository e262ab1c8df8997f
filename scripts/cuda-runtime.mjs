// `npm run cuda:runtime [-- --copy --no-libraries --out DIR]`: the folder .cuda/runtime, with ONNX Runtime, its CUDA provider,
// and those of CUDA's libraries that this machine lacks, as links. `--copy` makes a folder that can be carried: files, and
// all of those libraries, or none with `--no-libraries`.
import { copyFileSync, existsSync, mkdirSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { output } from './python-venv.mjs';
import { installPackages, root, stop } from './steps.mjs';
import { ensureWheels } from './wheels.mjs';

/** What the provider is linked against. cuDNN, cuFFT and NVRTC are opened by operators that our graphs do not have. */
const LIBRARIES = ['libcudart.so.13', 'libcublasLt.so.13', 'libcublas.so.13', 'libcurand.so.10'];
const PROVIDER = ['libonnxruntime_providers_shared.so', 'libonnxruntime_providers_cuda.so'];

/** npm's own library, which the provider was proved to load beside: both are of one commit. */
function runtimeLibrary() {
  const entry = createRequire(import.meta.url).resolve('onnxruntime-node/package.json');
  return join(dirname(entry), 'bin', 'napi-v6', 'linux', 'x64', 'libonnxruntime.so.1');
}

function knownToLoader(file) {
  const folders = (process.env.LD_LIBRARY_PATH ?? '').split(':').filter((folder) => folder !== '');
  return (
    (output('ldconfig', ['-p']) ?? '').includes(`${file} `) || folders.some((folder) => existsSync(join(folder, file)))
  );
}

/** Paths of everything that belongs into the folder. Throws an Error that says what to do. */
function runtimeFiles({ copy, libraries: isWanted }) {
  const provider = join(ensureWheels('provider'), 'onnxruntime', 'capi');
  const files = [runtimeLibrary(), ...PROVIDER.map((file) => join(provider, file))];
  const wanted = isWanted ? LIBRARIES.filter((file) => copy || !knownToLoader(file)) : [];
  if (wanted.length === 0) return files;
  const libraries = join(ensureWheels('libraries'), 'nvidia', 'cu13', 'lib');
  const absent = wanted.filter((file) => !existsSync(join(libraries, file)));
  if (absent.length > 0)
    throw new Error(`expected ${absent.join(', ')} in ${libraries}, found ${readdirSync(libraries).join(', ')}`);
  return [...files, ...wanted.map((file) => join(libraries, file))];
}

const { values } = parseArgs({
  options: {
    copy: { type: 'boolean', default: false },
    libraries: { type: 'boolean', default: true },
    out: { type: 'string' },
  },
  allowNegative: true,
});
installPackages();
try {
  const folder = resolve(values.out ?? join(root, '.cuda', 'runtime'));
  const files = runtimeFiles(values);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  // What is used here needs no second copy of 800 MB; what is carried elsewhere does.
  const put = values.copy ? copyFileSync : symlinkSync;
  for (const file of files) put(file, join(folder, basename(file)));
  console.log(`${folder}: ${readdirSync(folder).sort().join(', ')}`);
} catch (error) {
  stop(error.message);
}
