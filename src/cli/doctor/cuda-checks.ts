import { join } from 'node:path';
import { type CudaObstacle, type CudaState, RUNTIME_FILES } from '../../engine/cuda-probe.js';
import { type Finding, missing, ok } from './finding.js';
import type { Host } from './host.js';

/** What the CUDA provider is linked against, and the PyPI wheels that hold it. */
const LIBRARIES: ReadonlyMap<string, string> = new Map([
  ['libcudart.so.13', 'nvidia-cuda-runtime'],
  ['libcublas.so.13', 'nvidia-cublas'],
  ['libcublasLt.so.13', 'nvidia-cublas'],
  ['libcurand.so.10', 'nvidia-curand'],
]);

/** Where CUDA's libraries lie when nothing else says so. */
const USUAL_DIRECTORIES = [
  '/usr/local/cuda/lib64',
  '/usr/lib/x86_64-linux-gnu',
  '/usr/lib/aarch64-linux-gnu',
  '/usr/lib64',
];

/** First release of the driver that knows CUDA 13. */
const DRIVER = 580;
const NO_NEED = 'only needed to compute on a GPU';

/** What the checks of a GPU are told. */
export interface CudaFacts {
  /** Folder of ONNX Runtime with its CUDA provider. */
  readonly runtime: string;
  readonly probe: () => CudaState;
}

/** Everything that computing on an NVIDIA GPU needs. None of it is needed on a CPU, so nothing here fails. */
export function cudaFindings(host: Host, { runtime, probe }: CudaFacts): Finding[] {
  const state = probe();
  return [driver(host), addon(state), provider(host, runtime), libraries(host, runtime), device(state), compiler(host)];
}

function driver(host: Host): Finding {
  const query = ['--query-gpu=name,memory.total,driver_version', '--format=csv,noheader'];
  const devices = host.run('nvidia-smi', query);
  if (devices === null || devices === '') {
    const version = host.read('/proc/driver/nvidia/version')?.split('\n')[0];
    const found = version === undefined ? 'no NVIDIA driver' : `${version}, but nvidia-smi lists no device`;
    return missing('gpu', found, `${NO_NEED}: install a driver of release ${DRIVER} or newer`);
  }
  const listed = devices.split('\n').join('; ');
  const release = Number(/, (\d+)\.[\d.]+$/m.exec(devices)?.[1]);
  if (release < DRIVER) return missing('gpu', listed, `install a driver of release ${DRIVER} or newer, for CUDA 13`);
  return ok('gpu', listed);
}

function addon({ obstacles }: CudaState): Finding {
  const obstacle = obstacles.find(({ part }) => part === 'addon');
  return obstacle === undefined
    ? ok('cuda addon', 'built, with kernels for sm_80 and newer')
    : ofObstacle('cuda addon', obstacle);
}

function provider(host: Host, runtime: string): Finding {
  const absent = RUNTIME_FILES.filter((file) => !host.exists(join(runtime, file)));
  if (absent.length === 0) return ok('provider', runtime);
  return missing('provider', `not in ${runtime}: ${absent.join(', ')}`, `${NO_NEED}: npm run cuda:runtime`);
}

function libraries(host: Host, runtime: string): Finding {
  const directories = [
    runtime,
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
  return missing('cuda', `not found: ${names}`, `${NO_NEED}: npm run cuda:runtime (PyPI has them: ${wheels})`);
}

/** What the addon itself says about the GPUs: the last word on whether `--device cuda` starts. */
function device({ obstacles, devices }: CudaState): Finding {
  if (devices.length > 0) {
    const listed = devices.map(({ name, capability, freeBytes }, index) => {
      const free = `${(freeBytes / 2 ** 30).toFixed(1)} GiB free`;
      return `cuda:${index} ${name}, sm_${capability}, ${free}`;
    });
    return ok('device', listed.join('; '));
  }
  const obstacle = obstacles.find(({ part }) => part === 'device');
  if (obstacle !== undefined) return ofObstacle('device', obstacle);
  return missing('device', 'not asked: see the lines above', `${NO_NEED}; the server computes on the CPU`);
}

function ofObstacle(name: string, { found, advice }: CudaObstacle): Finding {
  return missing(name, found, `${NO_NEED}: ${advice}`);
}

function compiler(host: Host): Finding {
  const programs = [...(host.env.CUDA_HOME === undefined ? [] : [join(host.env.CUDA_HOME, 'bin', 'nvcc')]), 'nvcc'];
  for (const program of programs) {
    const version = /release ([\d.]+)/.exec(host.run(program, ['--version']) ?? '')?.[1];
    if (version !== undefined) return ok('nvcc', version);
  }
  return missing('nvcc', 'no CUDA compiler', `only needed to build the addon for GPUs: npm run build:cuda fetches one`);
}
