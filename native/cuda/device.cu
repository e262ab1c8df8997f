// The device, its memory, its streams and events: the CUDA runtime behind the C interface.
#include <cstring>

#include "common.cuh"

extern "C" {

const size_t *lmx_abi_sizes(void) {
  static const size_t sizes[] = {
      sizeof(lmx_part),
      sizeof(lmx_site_delta),
      sizeof(lmx_replaced_rows),
      sizeof(lmx_embedding_lora),
      sizeof(lmx_adapter),
      sizeof(lmx_term),
      sizeof(lmx_tile),
      sizeof(lmx_query_tile),
      sizeof(lmx_counts),
      sizeof(lmx_step),
      sizeof(lmx_device_facts),
      sizeof(lmx_sgmv),
      sizeof(lmx_attention),
      sizeof(lmx_row_sampling),
      sizeof(lmx_counted_token),
      sizeof(lmx_sampling),
      0,
  };
  return sizes;
}

const char *lmx_error_text(lmx_status status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }

int32_t lmx_emulated(void) {
#if defined(LMX_EMULATED)
  return 1;
#else
  return 0;
#endif
}

lmx_status lmx_device_count(int32_t *host_count) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  *host_count = error == cudaSuccess ? count : 0;
  return error;
}

lmx_status lmx_device_use(int32_t index) {
  const cudaError_t error = cudaSetDevice(index);
  if (error != cudaSuccess) return error;
  // Another thread's capture forbids this one nothing; its own does.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal;
  return cudaThreadExchangeStreamCaptureMode(&mode);
}

lmx_status lmx_device_facts_of(int32_t index, lmx_device_facts *host_facts) {
  cudaDeviceProp properties;
  cudaError_t error = cudaGetDeviceProperties(&properties, index);
  if (error != cudaSuccess) return error;
  // Free memory is the current device's: this one is made current for the question only.
  int before = 0, driver = 0, runtime = 0;
  size_t free = 0, total = 0;
  if ((error = cudaGetDevice(&before)) != cudaSuccess) return error;
  if ((error = cudaSetDevice(index)) != cudaSuccess) return error;
  error = cudaMemGetInfo(&free, &total);
  const cudaError_t back = cudaSetDevice(before);
  if (error != cudaSuccess) return error;
  if (back != cudaSuccess) return back;
  if ((error = cudaDriverGetVersion(&driver)) != cudaSuccess) return error;
  if ((error = cudaRuntimeGetVersion(&runtime)) != cudaSuccess) return error;
  *host_facts = {};
  static_assert(sizeof host_facts->name == sizeof properties.name);
  std::memcpy(host_facts->name, properties.name, sizeof properties.name);
  host_facts->total_bytes = static_cast<int64_t>(total);
  host_facts->free_bytes = static_cast<int64_t>(free);
  host_facts->l2_bytes = properties.l2CacheSize;
  host_facts->capability = properties.major * 10 + properties.minor;
  host_facts->multiprocessors = properties.multiProcessorCount;
  host_facts->driver = driver;
  host_facts->runtime = runtime;
  return cudaSuccess;
}

lmx_status lmx_alloc(void **out, size_t bytes) { return cudaMalloc(out, bytes); }
lmx_status lmx_free(void *data) { return cudaFree(data); }
lmx_status lmx_host_alloc(void **out, size_t bytes) { return cudaMallocHost(out, bytes); }
lmx_status lmx_host_free(void *data) { return cudaFreeHost(data); }

lmx_status lmx_stream_create(lmx_stream *out, int32_t priority) {
  return cudaStreamCreateWithPriority(reinterpret_cast<cudaStream_t *>(out), cudaStreamNonBlocking, priority);
}
lmx_status lmx_stream_destroy(lmx_stream stream) { return cudaStreamDestroy(static_cast<cudaStream_t>(stream)); }
lmx_status lmx_stream_wait(lmx_stream stream) { return cudaStreamSynchronize(static_cast<cudaStream_t>(stream)); }

lmx_status lmx_copy_in(void *to, const void *host_from, size_t bytes, lmx_stream stream) {
  return cudaMemcpyAsync(to, host_from, bytes, cudaMemcpyHostToDevice, static_cast<cudaStream_t>(stream));
}
lmx_status lmx_copy_out(void *host_to, const void *from, size_t bytes, lmx_stream stream) {
  return cudaMemcpyAsync(host_to, from, bytes, cudaMemcpyDeviceToHost, static_cast<cudaStream_t>(stream));
}
lmx_status lmx_copy(void *to, const void *from, size_t bytes, lmx_stream stream) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(stream));
}
lmx_status lmx_zero(void *to, size_t bytes, lmx_stream stream) {
  return cudaMemsetAsync(to, 0, bytes, static_cast<cudaStream_t>(stream));
}

lmx_status lmx_event_create(lmx_event *out) {
  return cudaEventCreateWithFlags(reinterpret_cast<cudaEvent_t *>(out), cudaEventDisableTiming);
}
lmx_status lmx_event_destroy(lmx_event event) { return cudaEventDestroy(static_cast<cudaEvent_t>(event)); }
lmx_status lmx_event_record(lmx_event event, lmx_stream stream) {
  return cudaEventRecord(static_cast<cudaEvent_t>(event), static_cast<cudaStream_t>(stream));
}
lmx_status lmx_event_done(lmx_event event, int32_t *host_done) {
  const cudaError_t error = cudaEventQuery(static_cast<cudaEvent_t>(event));
  *host_done = error == cudaSuccess;
  return error == cudaErrorNotReady ? cudaSuccess : error;
}
lmx_status lmx_event_wait(lmx_event event) { return cudaEventSynchronize(static_cast<cudaEvent_t>(event)); }
lmx_status lmx_stream_after(lmx_stream stream, lmx_event event) {
  return cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), static_cast<cudaEvent_t>(event), 0);
}

}  // extern "C"
