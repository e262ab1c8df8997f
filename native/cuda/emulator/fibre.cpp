#include "fibre.h"

#include <cstdint>

#if defined(__x86_64__)
// What the System V ABI lets a call keep is pushed, the stack pointers are exchanged. swapcontext does the same with a
// system call for the signal mask, which took most of a kernel's time.
extern "C" void lmx_switch_stack(void **save, void *load);
__asm__(R"(
.text
.globl lmx_switch_stack
.hidden lmx_switch_stack
.type lmx_switch_stack, @function
lmx_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size lmx_switch_stack, .-lmx_switch_stack
)");
#endif

namespace lmx_emulator {

void Fibre::start(void *stack, std::size_t size, void (*entry)()) {
  bottom_ = stack;
  size_ = size;
#if defined(__SANITIZE_ADDRESS__)
  // Frames of a thread that never ended have left their red zones.
  __asan_unpoison_memory_region(stack, size);
#endif
#if defined(__x86_64__)
  // Six registers, the address that `ret` takes, and one word so that entry begins as after a call: 16n + 8.
  auto *top = reinterpret_cast<std::uintptr_t *>(static_cast<char *>(stack) + size);
  top[-1] = 0;
  top[-2] = reinterpret_cast<std::uintptr_t>(entry);
  for (int i = 3; i <= 8; ++i) top[-i] = 0;
  sp_ = top - 8;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = size;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
#endif
}

void Fibre::switch_to(Fibre &to, [[maybe_unused]] bool last) {
#if defined(__SANITIZE_ADDRESS__)
  void *fake = nullptr;
  __sanitizer_start_switch_fiber(last ? nullptr : &fake, to.bottom_, to.size_);
#endif
#if defined(__x86_64__)
  lmx_switch_stack(&sp_, to.sp_);
#else
  swapcontext(&context_, &to.context_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

void Fibre::entered([[maybe_unused]] Fibre &from) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &from.bottom_, &from.size_);
#endif
}

}  // namespace lmx_emulator
