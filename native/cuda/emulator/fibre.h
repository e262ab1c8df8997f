// One CUDA thread's own stack, and the switch between stacks.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace lmx_emulator {

/// Where a stack of execution stands while another one runs.
class Fibre {
 public:
  /// The stack that is running now.
  Fibre() = default;
  /// `entry` on the memory [stack, stack + size); it must switch away and never return.
  void start(void *stack, std::size_t size, void (*entry)());
  /// Leaves this one, goes on with `to`; returns when something switches back. `last`: nothing ever will.
  void switch_to(Fibre &to, bool last = false);
  /// First thing on a new stack: `from` is what switched here.
  static void entered(Fibre &from);

 private:
#if defined(__x86_64__)
  void *sp_ = nullptr;
#else
  ucontext_t context_{};
#endif
  const void *bottom_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace lmx_emulator
