// Tests in one program: LMX_TEST(name) { … CHECK(…); }, one source file each, main included.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "loramux_cuda.h"

namespace lmx_test {

struct Test {
  const char *name;
  void (*run)();
};
inline std::vector<Test> &tests() {
  static std::vector<Test> all;
  return all;
}
struct Register {
  Register(const char *name, void (*run)()) { tests().push_back({name, run}); }
};

/// What is tested just now: printed with a failure.
inline std::string &context() {
  static std::string text;
  return text;
}
inline int &failures() {
  static int count = 0;
  return count;
}
inline void failed(const char *file, int line, const std::string &what) {
  // The first ones tell; a wrong kernel would print millions.
  if (++failures() <= 20)
    std::fprintf(stderr, "  FAILED %s:%d: %s%s%s\n", file, line, what.c_str(), context().empty() ? "" : " in ",
                 context().c_str());
}

/// The status of a lmx_… or CUDA call must be 0: nothing after it would mean anything.
inline void need(int status, const char *file, int line, const char *what) {
  if (status == 0) return;
  failed(file, line, std::string(what) + ": " + lmx_error_text(status));
  std::exit(1);
}

}  // namespace lmx_test

#define LMX_TEST(name)                                       \
  static void name();                                        \
  static const lmx_test::Register name##_test{#name, &name}; \
  static void name()
#define CHECK(condition)                                                \
  do {                                                                  \
    if (!(condition)) lmx_test::failed(__FILE__, __LINE__, #condition); \
  } while (false)
#define NEED(call) lmx_test::need(static_cast<int>(call), __FILE__, __LINE__, #call)
/// |got − want| ≤ tolerance; a NaN fails.
#define CHECK_NEAR(got, want, tolerance)                                                                                \
  do {                                                                                                                  \
    const double lmx_got = (got), lmx_want = (want), lmx_tolerance = (tolerance);                                       \
    if (!(std::fabs(lmx_got - lmx_want) <= lmx_tolerance)) {                                                            \
      lmx_test::failed(__FILE__, __LINE__,                                                                              \
                       std::string(#got) + " = " + std::to_string(lmx_got) + ", expected " + std::to_string(lmx_want) + \
                           " ± " + std::to_string(lmx_tolerance));                                                      \
    }                                                                                                                   \
  } while (false)

int main() {
  int devices = 0;
  const int status = lmx_device_count(&devices);
  if (devices == 0) {
    std::printf("skipped: no NVIDIA device (%s)\n", lmx_error_text(status));
    return 0;
  }
  for (const lmx_test::Test &test : lmx_test::tests()) {
    const int before = lmx_test::failures();
    lmx_test::context().clear();
    test.run();
    std::printf("%s %s\n", lmx_test::failures() == before ? "ok" : "FAILED", test.name);
    std::fflush(stdout);
  }
  if (lmx_test::tests().empty()) std::fprintf(stderr, "no tests\n");
  return lmx_test::failures() > 0 || lmx_test::tests().empty() ? 1 : 0;
}
