#include "block.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "cuda_runtime.h"
#include "fibre.h"

__thread uint3 threadIdx, blockIdx;
__thread dim3 blockDim, gridDim;

namespace lmx_emulator {
namespace {

constexpr unsigned MOST_THREADS = 1024;
constexpr std::size_t MOST_SHARED = 227 << 10;  // sm_90's
constexpr std::size_t STACK_BYTES = 256 << 10;  // touched pages only are real
constexpr std::size_t GUARD_BYTES = 64;
constexpr unsigned char UNWRITTEN = 0xff, GUARD = 0xa5;

enum class State { ready, at_warp, at_block, ended };

struct Copy {
  void *to;
  const void *from;
  std::size_t bytes;
};

struct Thread {
  Fibre fibre;
  State state = State::ready;
  uint3 index{};
  Place place{};
  unsigned mask = 0;
  void *payload = nullptr;
  Together together = nullptr;
  std::vector<std::vector<Copy>> copies;  // the last group is open
};

/// Everything that runs on one host thread.
struct Machine {
  std::vector<Thread> threads{MOST_THREADS};
  char *stacks = nullptr;
  Fibre scheduler;
  unsigned count = 0;  // threads of the block
  unsigned current = 0;
  unsigned waiting = 0;  // at the block's barrier
  unsigned ended = 0;
  bool failed = false;
  bool busy = false;
  unsigned turn = 0;
  unsigned char *shared = nullptr;
  void (*body)(void *) = nullptr;
  void *context = nullptr;
  std::string report;

  ~Machine() {
    if (stacks != nullptr) munmap(stacks, MOST_THREADS * STACK_BYTES);
  }
  void take_stacks() {
    void *memory = mmap(nullptr, MOST_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    stacks = static_cast<char *>(memory);
    // A stack that grows too far hits a page without access.
    for (unsigned i = 0; i < MOST_THREADS; ++i)
      mprotect(stacks + i * STACK_BYTES, static_cast<std::size_t>(getpagesize()), PROT_NONE);
  }
  Thread &self() { return threads[current]; }
  /// Back to the scheduler until this thread is ready.
  void pause(bool last = false) { self().fibre.switch_to(scheduler, last); }
};

thread_local Machine machine;

void thread_body() {
  Machine &m = machine;
  Fibre::entered(m.scheduler);
  m.body(m.context);
  m.self().state = State::ended;
  ++m.ended;
  m.pause(true);
  std::abort();  // an ended thread was woken
}

void start_thread(Machine &m, unsigned i, dim3 block) {
  Thread &t = m.threads[i];
  t.state = State::ready;
  t.index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
  t.copies.assign(1, {});
  char *stack = m.stacks + i * STACK_BYTES;
  const auto guard = static_cast<std::size_t>(getpagesize());
  t.fibre.start(stack + guard, STACK_BYTES - guard, thread_body);
}

/// Why nothing goes on: who waits where.
void report_stuck(Machine &m) {
  std::string text = "threads wait for others that never come:";
  for (unsigned i = 0, named = 0; i < m.count && named < 8; ++i) {
    const Thread &t = m.threads[i];
    if (t.state == State::ended) continue;
    const bool same = i > 0 && m.threads[i - 1].state == t.state && m.threads[i - 1].place.line == t.place.line;
    if (same) continue;
    char line[256];
    std::snprintf(line, sizeof line, " thread %u at %s:%d (%s)", i, t.place.file, t.place.line,
                  t.state == State::at_block ? "block" : "warp");
    text += line;
    ++named;
  }
  char line[64];
  std::snprintf(line, sizeof line, "; %u of %u have ended", m.ended, m.count);
  m.report = text + line;
  m.failed = true;
}

/// Lets the warps' threads run until all have ended. Every other round goes backwards, so that what needs a barrier it
/// does not have is wrong in one of the two.
void run_block(Machine &m) {
  while (m.ended < m.count && !m.failed) {
    bool moved = false;
    const bool backwards = m.turn++ % 2 == 1;
    for (unsigned i = 0; i < m.count && !m.failed; ++i) {
      const unsigned at = backwards ? m.count - 1 - i : i;
      if (m.threads[at].state != State::ready) continue;
      moved = true;
      m.current = at;
      threadIdx = m.threads[at].index;
      m.scheduler.switch_to(m.threads[at].fibre);
    }
    if (!moved && !m.failed) report_stuck(m);
  }
}

}  // namespace

void fail(const char *format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  Machine &m = machine;
  m.report = text;
  m.failed = true;
  if (!m.busy) {
    std::fprintf(stderr, "CUDA emulator, outside a kernel: %s\n", text);
    std::abort();
  }
  m.pause(true);
  std::abort();  // a failed block's thread was woken
}

void meet_warp(Place place, unsigned mask, void *payload, Together together) {
  Machine &m = machine;
  Thread &self = m.self();
  const unsigned first = m.current / 32 * 32;
  const unsigned there = m.count - first >= 32 ? 0xffffffffu : (1u << (m.count - first)) - 1;
  mask &= there;
  if ((mask >> (m.current - first) & 1) == 0)
    fail("%s:%d: lane %u is not in its own mask %08x", place.file, place.line, m.current - first, mask);
  self.state = State::at_warp;
  self.place = place;
  self.mask = mask;
  self.payload = payload;
  self.together = together;
  void *payloads[32] = {};
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    const Thread &t = m.threads[first + lane];
    if (t.state == State::ended) fail("%s:%d: lane %u of mask %08x has ended", place.file, place.line, lane, mask);
    const bool here = t.state == State::at_warp && t.mask == mask && t.place.line == place.line &&
                      std::strcmp(t.place.file, place.file) == 0;
    if (!here) return m.pause();
    payloads[lane] = t.payload;
  }
  together(payloads, mask);
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) m.threads[first + lane].state = State::ready;
  }
}

void meet_block(Place place) {
  Machine &m = machine;
  Thread &self = m.self();
  if (m.ended > 0) fail("%s:%d: %u threads have ended before this barrier", place.file, place.line, m.ended);
  self.state = State::at_block;
  self.place = place;
  if (++m.waiting < m.count) return m.pause();
  for (unsigned i = 0; i < m.count; ++i) {
    const Place &other = m.threads[i].place;
    if (other.line != place.line || std::strcmp(other.file, place.file) != 0) {
      fail("threads meet at different barriers: %s:%d and %s:%d", other.file, other.line, place.file, place.line);
    }
  }
  m.waiting = 0;
  for (unsigned i = 0; i < m.count; ++i) m.threads[i].state = State::ready;
}

void *dynamic_shared() { return machine.shared; }

void copy_later(void *to, const void *from, std::size_t bytes) { machine.self().copies.back().push_back({to, from, bytes}); }

void close_copy_group() { machine.self().copies.emplace_back(); }

void wait_for_copies(int left) {
  auto &groups = machine.self().copies;
  while (static_cast<int>(groups.size()) - 1 > left) {
    for (const Copy &copy : groups.front()) {
      if (copy.from == nullptr) std::memset(copy.to, 0, copy.bytes);
      else std::memcpy(copy.to, copy.from, copy.bytes);
    }
    groups.erase(groups.begin());
  }
}

const char *last_report() { return machine.report.c_str(); }

cudaError_t run_grid(dim3 grid, dim3 block, std::size_t shared_bytes, void (*thread)(void *), void *context) {
  Machine &m = machine;
  const std::size_t count = static_cast<std::size_t>(block.x) * block.y * block.z;
  const bool fits = count > 0 && count <= MOST_THREADS && shared_bytes <= MOST_SHARED && grid.x > 0 &&
                    grid.x <= 0x7fffffffu && grid.y > 0 && grid.y <= 65535 && grid.z > 0 && grid.z <= 65535;
  if (!fits || m.busy) return cudaErrorInvalidConfiguration;
  if (m.stacks == nullptr) m.take_stacks();
  // The guard behind it shows writes past its end.
  std::vector<unsigned char> shared(shared_bytes + GUARD_BYTES + 256);
  m.shared = shared.data() + (256 - reinterpret_cast<std::uintptr_t>(shared.data()) % 256) % 256;
  m.body = thread;
  m.context = context;
  m.count = static_cast<unsigned>(count);
  m.failed = false;
  m.busy = true;
  blockDim = block;
  gridDim = grid;
  for (unsigned z = 0; z < grid.z && !m.failed; ++z) {
    for (unsigned y = 0; y < grid.y && !m.failed; ++y) {
      for (unsigned x = 0; x < grid.x && !m.failed; ++x) {
        blockIdx = {x, y, z};
        std::memset(m.shared, UNWRITTEN, shared_bytes);
        std::memset(m.shared + shared_bytes, GUARD, GUARD_BYTES);
        m.ended = m.waiting = 0;
        for (unsigned i = 0; i < m.count; ++i) start_thread(m, i, block);
        run_block(m);
        for (std::size_t i = 0; i < GUARD_BYTES && !m.failed; ++i) {
          if (m.shared[shared_bytes + i] == GUARD) continue;
          m.report = "dynamic shared memory was written behind its end";
          m.failed = true;
        }
      }
    }
  }
  m.busy = false;
  if (!m.failed) return cudaSuccess;
  std::fprintf(stderr, "CUDA emulator: block (%u, %u, %u): %s\n", blockIdx.x, blockIdx.y, blockIdx.z, m.report.c_str());
  return cudaErrorLaunchFailure;
}

}  // namespace lmx_emulator
