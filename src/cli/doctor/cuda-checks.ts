import { join } from 'node:path';
import { type Finding, missing, ok } from './finding.js';
import type { Host } from './host.js';

/** The libraries that ONNX Runtime's CUDA provider for CUDA 13 opens, and the PyPI wheels that hold them. */
const LIBRARIES: ReadonlyMap<string, string> = new Map([
  ['libcudart.so.13', 'nvidia-cuda-runtime'],
  ['libcublas.so.13', 'nvidia-cublas'],
  ['libcublasLt.so.13', 'nvidia-cublas'],
  ['libcufft.so.12', 'nvidia-cufft'],
  ['libcudnn.so.9', 'nvidia-cudnn-cu13'],
]);

/** Where CUDA's libraries lie when nothing else says so. */
const USUAL_DIRECTORIES = [
  '/usr/local/cuda/lib64',
  '/usr/lib/x86_64-linux-gnu',
  '/usr/lib/aarch64-linux-gnu',
  '/usr/lib64',
];

const NO_ENGINE = 'nothing to do: loramux has no CUDA engine yet and serves on the CPU';

/** What of an NVIDIA GPU's software is there. None of it is needed: this build computes on the CPU alone. */
export function cudaFindings(host: Host): Finding[] {
  return [driver(host), libraries(host), compiler(host)];
}

function driver(host: Host): Finding {
  const query = ['--query-gpu=name,memory.total,driver_version', '--format=csv,noheader'];
  const devices = host.run('nvidia-smi', query);
  if (devices !== null && devices !== '') return ok('gpu', devices.split('\n').join('; '));
  const version = host.read('/proc/driver/nvidia/version')?.split('\n')[0];
  const found = version === undefined ? 'no NVIDIA driver' : `${version}, but nvidia-smi lists no device`;
  return missing('gpu', found, NO_ENGINE);
}

function libraries(host: Host): Finding {
  const directories = [
    ...(host.env.LD_LIBRARY_PATH ?? '').split(':'),
    ...(host.env.CUDA_HOME === undefined ? [] : [join(host.env.CUDA_HOME, 'lib64')]),
    ...USUAL_DIRECTORIES,
  ].filter((directory) => directory !== '');
  const known = host.run('ldconfig', ['-p']) ?? '';
  const absent = [...LIBRARIES].filter(
    ([file]) => !known.includes(`${file} `) && !directories.some((directory) => host.exists(join(directory, file))),
  );
  if (absent.length === 0) return ok('cuda', [...LIBRARIES.keys()].join(', '));
  const wheels = [...new Set(absent.map(([, wheel]) => wheel))].join(' ');
  const names = absent.map(([file]) => file).join(', ');
  return missing('cuda', `not found: ${names}`, `${NO_ENGINE} (PyPI has them: ${wheels})`);
}

function compiler(host: Host): Finding {
  const programs = [...(host.env.CUDA_HOME === undefined ? [] : [join(host.env.CUDA_HOME, 'bin', 'nvcc')]), 'nvcc'];
  for (const program of programs) {
    const version = /release ([\d.]+)/.exec(host.run(program, ['--version']) ?? '')?.[1];
    if (version !== undefined) return ok('nvcc', version);
  }
  return missing('nvcc', 'no CUDA compiler', NO_ENGINE);
}
