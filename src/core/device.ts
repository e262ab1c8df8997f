/** What computes, as configured: `cuda:0` is the first GPU that CUDA lists, `auto` that one where it can be used, else the CPU. */
export type DeviceSetting = 'auto' | 'cpu' | `cuda:${number}`;

/** Whether the CPU may take the place of a GPU. */
export type DeviceFallback = 'allow' | 'refuse';
