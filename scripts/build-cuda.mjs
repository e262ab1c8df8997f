// `npm run build:cuda`: the second addon, native/loramux-cuda.node, with the kernels for NVIDIA GPUs. Needs no GPU.
import { ensureNvcc } from './cuda-toolkit.mjs';
import { buildCuda, installPackages, needTools, stop } from './steps.mjs';

needTools('cargo');
installPackages();
let nvcc;
try {
  nvcc = ensureNvcc();
} catch (error) {
  stop(error.message);
}
console.log(`kernels are compiled by ${nvcc}`);
buildCuda(nvcc);
