// The threads of one block, as fibres of the calling thread: blocks run one after another, threads change at meeting points.
#pragma once

#include <cstddef>

namespace lmx_emulator {

/// Where in the source a meeting point stands.
struct Place {
  const char *file;
  int line;
};

/// What the lanes of a warp do together, once: payloads[lane] for the lanes of `mask`, the others are null.
using Together = void (*)(void *const payloads[32], unsigned mask);

/// Waits for the lanes of `mask` at the same place; the last one does `together` for all.
void meet_warp(Place place, unsigned mask, void *payload, Together together);
/// Waits for all threads of the block.
void meet_block(Place place);
/// Ends the kernel with cudaErrorLaunchFailure and this text.
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/// Dynamic shared memory of the running block; at its begin every byte is 0xff: NaN, so that reads before writes show.
void *dynamic_shared();
/// Bytes from `from` arrive at `to` when a wait makes them: like cp.async, not before. Null `from`: zeros.
void copy_later(void *to, const void *from, std::size_t bytes);
void close_copy_group();
/// All groups but the youngest `left` have arrived.
void wait_for_copies(int left);
/// What the last failed kernel said.
const char *last_report();

}  // namespace lmx_emulator
