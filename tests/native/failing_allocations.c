// Preloaded by test_out_of_memory.py: lets the aligned allocations of the native core fail.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

// How many succeed from now on; below 0: all.
static long left = -1;
static long counted = 0;

void fail_after(long count) {
  __atomic_store_n(&left, count, __ATOMIC_SEQ_CST);
  __atomic_store_n(&counted, 0, __ATOMIC_SEQ_CST);
}
long allocations(void) { return __atomic_load_n(&counted, __ATOMIC_SEQ_CST); }

void *aligned_alloc(size_t alignment, size_t size) {
  static void *(*original)(size_t, size_t) = NULL;
  if (original == NULL)
    original = (void *(*)(size_t, size_t))dlsym(RTLD_NEXT, "aligned_alloc");
  const long number = __atomic_fetch_add(&counted, 1, __ATOMIC_SEQ_CST);
  const long limit = __atomic_load_n(&left, __ATOMIC_SEQ_CST);
  return limit >= 0 && number >= limit ? NULL : original(alignment, size);
}
